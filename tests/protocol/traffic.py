# SPDX-License-Identifier: Apache-2.0
"""Counting what a call sends from GPU to GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from oracle import Problem, tokens_for_rank


def remote_bytes(cluster: Any, rank: Any, call: Callable[[], None]) -> int:
    """Bytes that all ranks together write to other ranks in a call that each of them makes."""
    rank.synchronize()
    rank.barrier()
    if rank.rank == 0:
        cluster.sim.reset_traffic()
    rank.barrier()
    call()
    rank.synchronize()
    rank.barrier()
    links = cluster.sim.traffic()["bytes"]
    rank.barrier()
    return int(links.sum() - np.trace(links))


def bytes_of_rows(problem: Problem) -> int:
    """One row for each token and each other rank that it goes to: no dispatch or combine can do with less."""
    ranks = range(problem.num_ranks)
    num_rows = sum(
        len(tokens_for_rank(problem, source, rank)) for source in ranks for rank in ranks if rank != source
    )
    return num_rows * problem.hidden * problem.dtype.itemsize

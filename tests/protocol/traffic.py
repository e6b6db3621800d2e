# SPDX-License-Identifier: Apache-2.0
"""Counting what a call sends from GPU to GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nccl_ep as ep
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


def check_overhead(
    cluster: Any,
    problem: Problem,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    most_over_ideal: float,
) -> None:
    """Dispatch and combine send the problem's rows, and in all at most this many times their bytes."""

    def main(rank: Any) -> list[int]:
        mine = make_exchange(rank)
        with ep.Group(rank.comm, config) as group:
            handle = mine.make_handle(group)
            calls = (mine.dispatch, mine.combine)
            return [remote_bytes(cluster, rank, lambda call=call: call(handle)) for call in calls]

    written, ideal = cluster.run(main)[0], bytes_of_rows(problem)
    for call, found in zip(("dispatch", "combine"), written, strict=True):
        assert 1 <= found / ideal <= most_over_ideal, f"{call}: {found} bytes for {ideal} of rows"


def bytes_of_rows(problem: Problem) -> int:
    """One row for each token and each other rank that it goes to: no dispatch or combine can do with less."""
    ranks = range(problem.num_ranks)
    num_rows = sum(
        len(tokens_for_rank(problem, source, rank)) for source in ranks for rank in ranks if rank != source
    )
    return num_rows * problem.hidden * problem.dtype.itemsize

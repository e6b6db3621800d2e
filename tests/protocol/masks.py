# SPDX-License-Identifier: Apache-2.0
"""What tests of rank masks share: who takes part, and a problem without those that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
from oracle import Problem


def ranks_of(node: int, gpus: int) -> tuple[int, ...]:
    """The ranks of a node of so many GPUs."""
    return tuple(range(node * gpus, (node + 1) * gpus))


def without_experts(problem: Problem, *lost: int) -> Problem:
    """The same problem as if some ranks had no experts."""
    routes = [
        np.where(np.isin(table // problem.num_local_experts, lost), -1, table) for table in problem.topk_idx
    ]
    return replace(problem, topk_idx=routes)


def without_tokens(problem: Problem, *lost: int) -> Problem:
    """The same problem as if some ranks had no tokens."""
    routes = list(problem.topk_idx)
    for rank in lost:
        routes[rank] = np.full_like(routes[rank], -1)
    return replace(problem, topk_idx=routes)


def without(problem: Problem, *lost: int) -> Problem:
    """The same problem as if some ranks had neither."""
    return without_tokens(without_experts(problem, *lost), *lost)


def mask_of(rank: Any, group: ep.Group) -> list[int]:
    """A rank's mask: 1 for each rank that takes part."""
    mask = rank.array(np.full(rank.num_ranks, -1, np.int32))
    group.query_mask(mask)
    return [int(active) for active in rank.read(mask)]


def mask_without(num_ranks: int, *lost: int) -> list[int]:
    """The mask in which all take part but these."""
    return [int(rank not in lost) for rank in range(num_ranks)]


def meet(rank: Any) -> None:
    """Waits until all ranks are done with what they have called."""
    rank.synchronize()
    rank.barrier()


def each(found: list[Any], i: int) -> list[Any]:
    """The i-th of the results that each survivor has."""
    return [results and results[i] for results in found]

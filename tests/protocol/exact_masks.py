# SPDX-License-Identifier: Apache-2.0
"""Groups with ``exact_combine`` and rank masks: exchanges, the sums of what is left, and a rank that dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ht
import ht_oracle
import ll
import nccl_ep as ep
import numpy as np
import oracle
from ht import Mode
from ht_survivors import subsets
from ll import EM, Shape
from ll_masks import exchange_without
from masks import mask_of, mask_without, meet
from oracle import Array, Problem

TIMEOUT_NS = 1_000_000  # of simulated time
LOST = 1
SHAPE = Shape(num_ranks=3, num_local_experts=3, num_topk=4, hidden=16, max_tokens=5, tokens=(5, 4, 3))
MODE = Mode(EM, budget=64)


def config_for(algorithm: ep.Algorithm, problem: Problem, timeout_ns: int) -> ep.GroupConfig:
    changes = {"exact_combine": True, "enable_mask": True, "timeout_ns": timeout_ns}
    if algorithm is ep.Algorithm.LOW_LATENCY:
        return ll.group_config(problem, num_topk=problem.num_topk, **changes)
    return ht.group_config(problem, MODE, **changes)


@contextmanager
def exchanges_of(
    rank: Any,
    algorithm: ep.Algorithm,
    problems: list[Problem],
    *lost: int,
    timeout_ns: int = TIMEOUT_NS,
) -> Iterator[tuple[ep.Group, list[Any], list[ep.Handle]]]:
    """A group, and an exchange with a handle for each problem; experts give back rows for what is left."""
    with ep.Group(rank.comm, config_for(algorithm, problems[0], timeout_ns)) as group:
        if algorithm is ep.Algorithm.LOW_LATENCY:
            exchanges: list[Any] = [exchange_without(rank, problem, EM, *lost) for problem in problems]
        else:
            exchanges = [ht.Exchange(rank, problem, MODE) for problem in problems]
        yield group, exchanges, [mine.make_handle(group) for mine in exchanges]


def sums(algorithm: ep.Algorithm, problem: Problem, of: Problem) -> Callable[[int], Array]:
    """What each rank's tokens of a problem sum up to, from the rows that experts have for another one."""
    ranks = range(problem.num_ranks)
    if algorithm is ep.Algorithm.LOW_LATENCY:
        rows = [ll.expert_rows(of, rank, EM) for rank in ranks]
        return lambda rank: oracle.combine_exact(problem, rank, rows)
    rows = [ht.expert_rows(of, rank, MODE) for rank in ranks]
    return lambda rank: ht_oracle.combine_exact(problem, rank, rows)


def same(found: Array, wanted: Array) -> Array:
    """Which tokens have these sums, to the bit. -0 and 0 are both fine where nothing is added."""
    zero = found.dtype.type(0)
    return (found + zero == wanted + zero).all(axis=1)


def without_some(problem: Problem, gone: tuple[int, ...]) -> Problem:
    """The same problem without some experts."""
    return replace(
        problem, topk_idx=[np.where(np.isin(table, gone), -1, table) for table in problem.topk_idx]
    )


def check_dying_in_combine(cluster: Any, algorithm: ep.Algorithm, problem: Problem, moment: int) -> None:
    """A rank dies in it, after so many steps; 0: before.

    What some of its experts have for a token is added or is missing. All else is as ever, then and later.
    """

    def main(rank: Any) -> Any:
        with exchanges_of(rank, algorithm, [problem]) as (group, (mine,), (handle,)):
            mine.dispatch(handle)
            meet(rank)
            if rank.rank == LOST:
                cluster.sim.silence(LOST, after=moment)
                mine.combine(handle)
                return None
            found = []
            for _ in range(2):
                mine.combine(handle)
                found.append(mine.results()["combined"])
            # Who needs nothing from it does not notice.
            assert mask_of(rank, group) in (
                mask_without(rank.num_ranks),
                mask_without(rank.num_ranks, LOST),
            )
            return found

    found = cluster.run(main)
    experts = range(LOST * problem.num_local_experts, (LOST + 1) * problem.num_local_experts)
    # Without all of them first.
    possible = [sums(algorithm, without_some(problem, gone), problem) for gone in subsets(experts)]
    for rank, results in enumerate(found):
        if rank == LOST:
            continue
        fits = np.array([same(results[0], some(rank)) for some in possible])
        assert fits.any(axis=0).all(), f"rank {rank}"
        assert same(results[1], possible[0](rank)).all(), f"rank {rank}, later"
        assert moment > 0 or fits[0].all(), f"rank {rank}, of a rank that was dead before"

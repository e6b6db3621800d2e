# SPDX-License-Identifier: Apache-2.0
"""Groups with ``exact_combine`` and rank masks: a lost rank's rows are missing, and no other bit changes."""

from __future__ import annotations

from typing import Any

import ll
import nccl_ep as ep
import numpy as np
import pytest
from exact_masks import LOST, SHAPE, check_dying_in_combine, exchanges_of, same, sums
from ht_mask_runs import step_without
from ll import make_problem
from masks import each, mask_of, mask_without, meet, without
from oracle import Array

SIM_ONLY = pytest.mark.sim_only
STEPS = 20_000, 80_000  # when combine sends most of its rows
BOTH = pytest.mark.parametrize(
    ("algorithm", "nodes"),
    [(ep.Algorithm.LOW_LATENCY, 1), (ep.Algorithm.LOW_LATENCY, 3), (ep.Algorithm.HIGH_THROUGHPUT, 1)],
    ids=["low-latency", "low-latency-3x1", "high-throughput"],
)


@BOTH
def test_masks_change_nothing_while_all_answer(
    make_cluster: Any, algorithm: ep.Algorithm, nodes: int, seed: int
) -> None:
    problems = [make_problem(SHAPE, seed + i) for i in range(2)]

    def main(rank: Any) -> list[Array]:
        with exchanges_of(rank, algorithm, problems, timeout_ns=10**9) as (group, exchanges, handles):
            for mine, handle in zip(exchanges, handles, strict=True):
                mine.run(handle)
            found = [mine.results()["combined"] for mine in exchanges]
            assert mask_of(rank, group) == [1] * rank.num_ranks
            return found

    found = make_cluster(SHAPE.num_ranks, seed, nodes=nodes).run(main)
    for i, problem in enumerate(problems):
        wanted = sums(algorithm, problem, problem)
        for rank, results in enumerate(found):
            ll.assert_same_bits(results[i], wanted(rank), f"problem {i}, rank {rank}")


@SIM_ONLY
@BOTH
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, algorithm: ep.Algorithm, nodes: int, seed: int
) -> None:
    problems = [make_problem(SHAPE, seed + i) for i in range(2)]

    def main(rank: Any) -> Any:
        with exchanges_of(rank, algorithm, problems, LOST) as (group, exchanges, handles):
            meet(rank)
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for mine, handle in zip(exchanges, handles, strict=True):
                if algorithm is ep.Algorithm.LOW_LATENCY:
                    mine.run(handle)
                else:
                    step_without(mine, handle, (LOST,))
            found = [mine.results()["combined"] for mine in exchanges]
            assert mask_of(rank, group) == mask_without(rank.num_ranks, LOST)
            return found

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for i, problem in enumerate(problems):
        left = without(problem, LOST)
        wanted = sums(algorithm, left, left)
        for rank, combined in enumerate(each(found, i)):
            assert rank == LOST or same(combined, wanted(rank)).all(), f"problem {i}, rank {rank}"


@SIM_ONLY
@BOTH
def test_a_rank_that_dies_before_combine(
    make_cluster: Any, algorithm: ep.Algorithm, nodes: int, seed: int
) -> None:
    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    check_dying_in_combine(cluster, algorithm, make_problem(SHAPE, seed), 0)


# That the last stores of a dead GPU have landed when its places are used again follows from the time-out, of
# which the race checker knows nothing.


@SIM_ONLY
@BOTH
def test_a_rank_that_dies_in_combine(
    make_cluster: Any, algorithm: ep.Algorithm, nodes: int, seed: int
) -> None:
    moment = int(np.random.default_rng(seed).integers(*STEPS))
    print("dies after", moment, "steps")
    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes, checker=False)
    check_dying_in_combine(cluster, algorithm, make_problem(SHAPE, seed), moment)

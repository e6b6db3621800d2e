# SPDX-License-Identifier: Apache-2.0
"""Low-Latency groups with masks across LSA teams: whole nodes that die, or stand still and come back.

Single ranks do so in :mod:`test_ll_masks`, with one team as with several.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import EM, RM, Exchange, Shape, check, make_problem
from ll_masks import check_left, check_mask, clean_and_run, exchange_without, masked_group
from masks import each, meet, ranks_of

pytestmark = pytest.mark.sim_only
LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
DIVISIONS = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (4, 1), (3, 2), (2, 4)], ids=["2x2", "4x1", "3x2", "2x4"]
)
TIMEOUT_NS = 500_000  # of simulated time
LEAP = 2.1  # the simulated clock may be ahead as far as it has come since something happened
LOST_NODE = 1


def shape_of(nodes: int, gpus: int) -> Shape:
    return Shape(num_ranks=nodes * gpus, num_topk=3, hidden=160, max_tokens=4)


@LAYOUTS
@DIVISIONS
@pytest.mark.parametrize("loses", [True, False], ids=["lost", "silent"])
def test_survivors_go_on_without_a_dead_node(
    make_cluster: Any, loses: bool, nodes: int, gpus: int, layout: ep.Layout, seed: int
) -> None:
    problem, lost = make_problem(shape_of(nodes, gpus), seed), ranks_of(LOST_NODE, gpus)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            before = Exchange(rank, problem, layout)
            handle = before.make_handle(group)
            before.run(handle)
            meet(rank)
            if rank.rank in lost:
                cluster.sim.lose_node(LOST_NODE) if loses else cluster.sim.silence(rank.rank)
                return None
            start = cluster.sim.clock_ns
            exchanges = [exchange_without(rank, problem, layout, *lost) for _ in range(4)]
            for mine in exchanges:
                mine.run(handle)
            rank.synchronize()
            waited = cluster.sim.clock_ns - start
            check_mask(rank, group, *lost)
            loss = group.async_error()
            assert isinstance(loss, ep.RemoteError)
            assert set(loss.ranks) <= set(lost)
            return [*(mine.results() for mine in exchanges), waited]

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    found = cluster.run(main)
    for i in range(4):
        check_left(problem, layout, each(found, i), *lost)
    for waited in each(found, 4):
        assert waited is None or waited <= LEAP * 2 * TIMEOUT_NS, waited


@LAYOUTS
@DIVISIONS
def test_a_node_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, layout: ep.Layout, seed: int
) -> None:
    """Whatever its ranks have sent before: all survivors go on together, and without it all is right."""
    problem, lost = make_problem(shape_of(nodes, gpus), seed), ranks_of(LOST_NODE, gpus)
    moment = int(np.random.default_rng(seed).integers(1, 12000))
    print("dies after", moment, "steps")

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            first, last = Exchange(rank, problem, layout), exchange_without(rank, problem, layout, *lost)
            handle = first.make_handle(group)
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moment)
            for _ in range(2):
                first.run(handle)
            for _ in range(3):
                last.run(handle)
            if rank.rank in lost:
                return None
            check_mask(rank, group, *lost)
            return last.results()

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    check_left(problem, layout, cluster.run(main), *lost)


@LAYOUTS
@DIVISIONS
def test_a_node_that_comes_back_takes_part_again(
    make_cluster: Any, nodes: int, gpus: int, layout: ep.Layout, seed: int
) -> None:
    """It stands still in the middle of something, others go on, and it ends what it has begun; twice."""
    problem, lost = make_problem(shape_of(nodes, gpus), seed), ranks_of(LOST_NODE, gpus)
    random = np.random.default_rng(seed)
    moments, counts = random.integers(1, 6000, 2), random.integers(1, 4, 2)
    print("stands still after", moments, "steps; operations:", counts)

    def main(rank: Any) -> Any:
        found = []
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for moment, count in zip(moments, counts, strict=True):
                meet(rank)
                if rank.rank in lost:
                    cluster.sim.silence(rank.rank, after=int(moment))
                    mine.run(handle)
                    mine.run(handle)
                    rank.barrier()
                    cluster.sim.wake(rank.rank)
                else:
                    for _ in range(count):
                        mine.run(handle)
                    meet(rank)
                meet(rank)
                found += clean_and_run(mine, group, handle, 3)
        return found

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    found = cluster.run(main)
    for i in range(6):
        check(problem, layout, each(found, i))


@pytest.mark.parametrize("nodes", [1, 2, 4], ids=["one-team", "2x2", "4x1"])
def test_who_was_not_there_before_may_come_to_a_later_cleaning(
    make_cluster: Any, nodes: int, seed: int
) -> None:
    """Others have called it in vain, and do so again with the rank, which may be the first to come."""
    problem, lost = make_problem(shape_of(nodes, 4 // nodes), seed), 2
    random = np.random.default_rng(seed)
    num_vain, late = int(random.integers(1, 4)), random.integers(0, 3000, 4)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = Exchange(rank, problem, RM)
            handle = mine.make_handle(group)
            mine.run(handle)
            meet(rank)
            for _ in range(num_vain):
                if rank.rank == lost:
                    rank.barrier()
                    continue
                with suppress(ep.RemoteError):
                    group.clean_mask()
                mine.run(handle)
                meet(rank)
                check_mask(rank, group, lost)
            cluster.sim.delay(rank.rank, int(late[rank.rank]))
            rank.barrier()
            return clean_and_run(mine, group, handle, 1)[0]

    cluster = make_cluster(4, seed, nodes=nodes)
    check(problem, RM, cluster.run(main))

# SPDX-License-Identifier: Apache-2.0
"""Low-Latency groups with ``enable_mask`` go on without ranks that do not answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import EM, RM, Exchange, Shape, check, expected, expert_rows, make_problem
from ll_masks import (
    assert_same,
    check_in_the_middle,
    check_left,
    check_mask,
    check_sums,
    clean_and_run,
    exchange_without,
    masked_group,
)
from masks import each, mask_without, meet, without

SIM_ONLY = pytest.mark.sim_only
LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
TEAMS = pytest.mark.parametrize(
    "nodes", [1, *(pytest.param(n, marks=SIM_ONLY) for n in (2, 4))], ids=["one-team", "2x2", "4x1"]
)
TIMEOUT_NS = 400_000  # of simulated time
LOADING_NS = 2_000_000_000  # on GPUs: longer than one rank loads its kernels after another
LOST = 2
SHAPE = Shape(num_ranks=4, num_topk=3, max_tokens=6, tokens=(6, 3, 5, 4))


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    problems = [make_problem(SHAPE, seed + i) for i in range(3)]

    def main(rank: Any) -> Any:
        with masked_group(rank, problems[0], TIMEOUT_NS) as group:
            exchanges = [exchange_without(rank, problem, layout, LOST) for problem in problems]
            handles = [mine.make_handle(group) for mine in exchanges]
            check_mask(rank, group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for mine, handle in zip(exchanges, handles, strict=True):
                mine.run(handle)
            results = [mine.results() for mine in exchanges]
            check_mask(rank, group, LOST)
            loss = group.async_error()
            assert isinstance(loss, ep.RemoteError)
            assert loss.ranks == (LOST,)
            assert f"rank {rank.rank} waited 0.0004 s for the " in loss.message
            assert f" from rank {LOST} (token 0, epoch 1), and goes on without it" in loss.message
            group.clear_error()
            assert group.async_error() is None
            return results

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for i, problem in enumerate(problems):
        check_left(problem, layout, each(found, i), LOST)


@LAYOUTS
@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=SIM_ONLY)], ids=["one-team", "2x1"])
def test_a_rank_that_does_not_call(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """The same with a GPU that is well; its host does not call for a while."""
    lost = 1
    problem = make_problem(replace(SHAPE, num_ranks=2, tokens=(6, 4)), seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, LOADING_NS) as group:
            mine = exchange_without(rank, problem, layout, lost)
            handle = mine.make_handle(group)
            found = None
            if rank.rank != lost:
                mine.run(handle)
                mine.run(handle)
                found = mine.results()
                check_mask(rank, group, lost)
            rank.barrier()
            return found, *clean_and_run(mine, group, handle, 1)

    results = make_cluster(2, seed, nodes=nodes).run(main)
    check_left(problem, layout, each(results, 0), lost)
    check(problem, layout, each(results, 1))


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_dies_before_combine_is_missing_from_the_sums(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    """Others wait for one another meanwhile, and must not take each other for dead."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            received = mine.results()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            again = exchange_without(rank, problem, layout, LOST)
            mine.combine(handle)
            again.run(handle)
            combined = rank.read(mine.combined)
            check_mask(rank, group, LOST)
            return received, combined, again.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for rank, received in enumerate(each(found, 0)):
        if rank != LOST:
            wanted = expected(problem, rank, layout)
            del wanted["combined"]
            assert_same(received, wanted, f"rank {rank}")
    rows = [expert_rows(problem, rank, layout) for rank in range(SHAPE.num_ranks)]
    check_sums(problem, layout, rows, each(found, 1), LOST)
    check_left(problem, layout, each(found, 2), LOST)


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_dies_at_any_moment(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """Whatever it has sent before: rows of survivors are right and where the counters say."""
    problem = make_problem(SHAPE, seed)
    moment = int(np.random.default_rng(seed).integers(1, 8000))
    print("dies after", moment, "steps")

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            first, last = Exchange(rank, problem, layout), exchange_without(rank, problem, layout, LOST)
            handle = first.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST, after=moment)
            first.run(handle)
            last.run(handle)
            if rank.rank == LOST:
                return None
            found = first.results()
            # By now it is dead for sure, and once more all is as if it had never been.
            last.run(handle)
            check_mask(rank, group, LOST)
            return found, last.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    check_in_the_middle(problem, layout, each(found, 0), LOST)
    check_left(problem, layout, each(found, 1), LOST)


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_comes_back_takes_part_again(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = exchange_without(rank, problem, layout, LOST)
            handle = mine.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                mine.run(handle)
                rank.barrier()
                cluster.sim.wake(LOST)
            else:
                for _ in range(1 + seed % 3):
                    mine.run(handle)
                rank.synchronize()
                check_mask(rank, group, LOST)
                rank.barrier()
            meet(rank)
            return clean_and_run(mine, group, handle, 3)

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for i in range(3):
        check(problem, layout, each(found, i))


@SIM_ONLY
@TEAMS
def test_who_does_not_come_to_clean_stays_masked(make_cluster: Any, nodes: int, seed: int) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = exchange_without(rank, problem, RM, LOST)
            handle = mine.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            mine.run(handle)
            with pytest.raises(ep.RemoteError) as failure:
                group.clean_mask()
            assert failure.value.ranks == (LOST,)
            check_mask(rank, group, LOST)
            mine.run(handle)
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    check_left(problem, RM, cluster.run(main), LOST)


@LAYOUTS
@TEAMS
def test_the_caller_may_mask_ranks(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """Nobody waits then: with a time-out as long as the test may take, all goes on at once."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, 10**15) as group:
            mine = exchange_without(rank, problem, layout, LOST)
            handle = mine.make_handle(group)
            if rank.rank != LOST:
                group.update_mask(mask_without(rank.num_ranks, LOST))
                mine.run(handle)
                mine.run(handle)
            found = mine.results()
            rank.barrier()
            group.update_mask([1] * rank.num_ranks)
            return found if rank.rank != LOST else None

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    check_left(problem, layout, cluster.run(main), LOST)


@SIM_ONLY
@TEAMS
def test_a_replayed_graph_goes_on_too(make_cluster: Any, nodes: int, seed: int) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = exchange_without(rank, problem, EM, LOST)
            handle = mine.make_handle(group)
            with rank.capture() as graph:
                mine.run(handle, graph.stream)
            graph.launch()
            meet(rank)
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for _ in range(3):
                graph.launch()
            graph.stream.synchronize()
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    left = without(problem, LOST)
    for rank, found in enumerate(cluster.run(main)):
        if rank != LOST:  # behind the rows are those of the first replay
            wanted = expected(left, rank, EM)
            assert_same(found, {name: wanted[name] for name in ("counters", "combined")}, f"rank {rank}")


@pytest.mark.sim_only
def test_a_mask_has_an_element_for_each_rank(make_cluster: Any, seed: int) -> None:
    """Of a communicator that is an address alone, as on GPUs here, nobody knows how many ranks it has."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> None:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            with pytest.raises(TypeError, match="mask has the type FLOAT32, expected INT32"):
                group.query_mask(rank.array(np.zeros(rank.num_ranks, np.float32)))
            with pytest.raises(
                ValueError, match=r"mask has the shape \(1,\), expected an element for each of"
            ):
                group.query_mask(rank.array(np.zeros(1, np.int32)))
            for mask in ([1] * (rank.num_ranks + 1), [1, 2], [-1]):
                with pytest.raises(ValueError, match=r"expected at most \d elements, each 0 or 1"):
                    group.update_mask(mask)

    make_cluster(problem.num_ranks, seed).run(main)

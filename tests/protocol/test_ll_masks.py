# SPDX-License-Identifier: Apache-2.0
"""Low-Latency groups with ``enable_mask`` go on without ranks that do not answer.

What survivors must find is what the oracle says of a problem in which the lost rank neither has tokens nor
hosts experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
import oracle
import pytest
from ll import (
    EM,
    RM,
    Array,
    Exchange,
    Shape,
    assert_same_bits,
    check,
    expected,
    expert_rows,
    group_config,
    make_problem,
)
from masks import mask_of, mask_without, without, without_tokens
from oracle import Problem, sources_of_expert

SIM_ONLY = pytest.mark.sim_only
LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
TEAMS = pytest.mark.parametrize(
    "nodes", [1, *(pytest.param(n, marks=SIM_ONLY) for n in (2, 4))], ids=["one-team", "2x2", "4x1"]
)
TIMEOUT_NS = 400_000  # of simulated time
LOST = 2
SHAPE = Shape(num_ranks=4, num_topk=3, max_tokens=6, tokens=(6, 3, 5, 4))


def check_survivors(
    problem: Problem, layout: ep.Layout, results: list[dict[str, Array] | None], lost: int = LOST
) -> None:
    """Survivors have what a problem without the lost rank gives, to the bit."""
    wanted = without(problem, lost)
    for rank, found in enumerate(results):
        if found is None:
            continue
        for name, values in expected(wanted, rank, layout).items():
            mine, theirs = found[name], values
            if name == "combined":  # -0 and 0 are both fine where nothing is added
                mine, theirs = mine + mine.dtype.type(0), theirs + theirs.dtype.type(0)
            assert_same_bits(mine, theirs, f"rank {rank}: {name}")


def make_exchange(rank: Any, problem: Problem, layout: ep.Layout, *lost: int) -> Exchange:
    """Buffers for the whole problem, with what experts give back for the one without the lost ranks."""
    mine = Exchange(rank, problem, layout)
    rank.write(mine.expert_rows, expert_rows(without(problem, *lost), rank.rank, layout))
    return mine


def masked_config(problem: Problem, **changes: Any) -> ep.GroupConfig:
    return group_config(problem, enable_mask=True, **{"timeout_ns": TIMEOUT_NS, **changes})


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    problems = [make_problem(SHAPE, seed + i) for i in range(3)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problems[0])) as group:
            exchanges = [make_exchange(rank, problem, layout, LOST) for problem in problems]
            handles = [mine.make_handle(group) for mine in exchanges]
            assert mask_of(rank, group) == [1] * SHAPE.num_ranks
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for mine, handle in zip(exchanges, handles, strict=True):
                mine.run(handle)
            results = [mine.results() for mine in exchanges]
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
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
        check_survivors(problem, layout, [results and results[i] for results in found])


@LAYOUTS
@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=SIM_ONLY)], ids=["one-team", "2x1"])
def test_a_rank_that_does_not_call(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """The same with a GPU that is well; its host does not call for a while."""
    lost = 1
    problem = make_problem(replace(SHAPE, num_ranks=2, tokens=(6, 4)), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, timeout_ns=20_000_000)) as group:
            mine = make_exchange(rank, problem, layout, lost)
            handle = mine.make_handle(group)
            found = None
            if rank.rank != lost:
                mine.run(handle)
                mine.run(handle)
                found = mine.results()
                assert mask_of(rank, group) == mask_without(2, lost)
            rank.barrier()
            group.clean_mask()
            assert mask_of(rank, group) == [1, 1]
            whole = Exchange(rank, problem, layout)
            whole.run(handle)
            return found, whole.results()

    results = make_cluster(2, seed, nodes=nodes).run(main)
    check_survivors(problem, layout, [found for found, _ in results], lost)
    check(problem, layout, [whole for _, whole in results])


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_dies_before_combine_is_missing_from_the_sums(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    """Others wait for one another meanwhile, and must not take each other for dead."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            received = mine.results()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            again = make_exchange(rank, problem, layout, LOST)
            mine.combine(handle)
            again.run(handle)
            combined = rank.read(mine.combined)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            return received, combined, again.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    check_survivors(problem, layout, [results and results[2] for results in found])
    whole = [expected(problem, rank, layout) for rank in range(SHAPE.num_ranks)]
    for rank, results in enumerate(found):
        if results is None:
            continue
        assert_same_bits(results[0]["received"], whole[rank]["received"], f"rank {rank}: received")
        routes = problem.topk_idx[rank]
        with_lost = ((routes >= 0) & (routes // problem.num_local_experts == LOST)).any(axis=1)
        assert_same_bits(
            results[1][~with_lost], whole[rank]["combined"][~with_lost], f"rank {rank}: combined"
        )
        assert np.isfinite(results[1].astype(np.float32)).all()


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_dies_at_any_moment(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """Whatever it has sent before: rows of survivors are right and where the counters say."""
    problem = make_problem(SHAPE, seed)
    moment = int(np.random.default_rng(seed).integers(1, 8000))
    print("dies after", moment, "steps")

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem)) as group:
            first, last = Exchange(rank, problem, layout), make_exchange(rank, problem, layout, LOST)
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
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            return found, last.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    survivors = {rank: results[0] for rank, results in enumerate(found) if results is not None}
    counted = {rank: check_received(problem, layout, rank, results) for rank, results in survivors.items()}
    rows = [
        expert_rows(problem, rank, layout)
        if counted.get(rank, True)
        else rows_without_lost(problem, rank, layout)
        for rank in range(SHAPE.num_ranks)
    ]
    for rank, results in survivors.items():
        check_combined(problem, layout, rank, rows, results["combined"])
    check_survivors(problem, layout, [results and results[1] for results in found])


def check_received(problem: Problem, layout: ep.Layout, rank: int, found: dict[str, Array]) -> bool:
    """Either all of the lost rank's tokens are counted or none, and the rows of others are right.

    Returns which.
    """
    candidates = [expected(case, rank, layout) for case in (problem, without_tokens(problem, LOST))]
    same = [np.array_equal(found["counters"], wanted["counters"]) for wanted in candidates]
    assert any(same), f"rank {rank} counts {found['counters']}"
    wanted, of_lost = candidates[same.index(True)]["received"], rows_of(problem, rank, layout, LOST)
    if same[0]:
        keep = ~of_lost
        assert_same_bits(found["received"][keep], wanted[keep], f"rank {rank}: received")
    else:
        assert_same_bits(found["received"], wanted, f"rank {rank}: received")
    return same[0]


def rows_without_lost(problem: Problem, rank: int, layout: ep.Layout) -> Array:
    """What a rank's experts give back for each row of the whole problem, without lost tokens."""
    rows = expert_rows(problem, rank, layout)
    if layout is RM:
        return rows
    moved = rows.copy()
    for local in range(problem.num_local_experts):
        sources = sources_of_expert(problem, rank * problem.num_local_experts + local)
        kept = [row for row, (source, _) in enumerate(sources) if source != LOST]
        moved[local, kept] = rows[local, : len(kept)]
    return moved


def check_combined(problem: Problem, layout: ep.Layout, rank: int, rows: list[Array], found: Array) -> None:
    """Tokens that the lost rank's experts had no part in."""
    routes = problem.topk_idx[rank]
    keep = ~((routes >= 0) & (routes // problem.num_local_experts == LOST)).any(axis=1)
    combine = oracle.combine_expert_major if layout is EM else oracle.combine_rank_major
    wanted = combine(problem, rank, rows)
    assert_same_bits(found[keep], wanted[keep], f"rank {rank}: combined")
    assert np.isfinite(found.astype(np.float32)).all()


def rows_of(problem: Problem, rank: int, layout: ep.Layout, source: int) -> Array:
    """Which rows of dispatch's output are for tokens of a source."""
    if layout is RM:
        which = np.zeros((problem.num_ranks, problem.max_tokens), bool)
        which[source] = True
        return which
    which = np.zeros((problem.num_local_experts, problem.num_ranks * problem.max_tokens), bool)
    for local in range(problem.num_local_experts):
        for row, (of, _) in enumerate(sources_of_expert(problem, rank * problem.num_local_experts + local)):
            which[local, row] = of == source
    return which


@SIM_ONLY
@LAYOUTS
@TEAMS
def test_a_rank_that_comes_back_takes_part_again(
    make_cluster: Any, layout: ep.Layout, nodes: int, seed: int
) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem)) as group:
            mine, whole = make_exchange(rank, problem, layout, LOST), Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                mine.run(handle)
                rank.barrier()
                cluster.sim.wake(LOST)
                rank.synchronize()
            else:
                for _ in range(1 + seed % 3):
                    mine.run(handle)
                rank.synchronize()
                assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
                rank.barrier()
            rank.barrier()
            group.clean_mask()
            assert mask_of(rank, group) == [1] * SHAPE.num_ranks
            for _ in range(3):
                whole.run(handle)
            return whole.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    check(problem, layout, cluster.run(main))


@SIM_ONLY
@TEAMS
def test_who_does_not_come_to_clean_stays_masked(make_cluster: Any, nodes: int, seed: int) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem)) as group:
            mine = make_exchange(rank, problem, RM, LOST)
            handle = mine.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            mine.run(handle)
            with pytest.raises(ep.RemoteError) as failure:
                group.clean_mask()
            assert failure.value.ranks == (LOST,)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            mine.run(handle)
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    check_survivors(problem, RM, cluster.run(main))


@LAYOUTS
@TEAMS
def test_the_caller_may_mask_ranks(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """Nobody waits then: with a time-out as long as the test may take, all goes on at once."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, timeout_ns=10**15)) as group:
            mine = make_exchange(rank, problem, layout, LOST)
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
    check_survivors(problem, layout, cluster.run(main))


@SIM_ONLY
@TEAMS
def test_a_replayed_graph_goes_on_too(make_cluster: Any, nodes: int, seed: int) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem)) as group:
            mine = make_exchange(rank, problem, EM, LOST)
            handle = mine.make_handle(group)
            with rank.capture() as graph:
                mine.run(handle, graph.stream)
            graph.launch()
            rank.synchronize()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for _ in range(3):
                graph.launch()
            graph.stream.synchronize()
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for rank, results in enumerate(found):
        if results is not None:
            combined = expected(without(problem, LOST), rank, EM)["combined"]
            zero = combined.dtype.type(0)
            assert_same_bits(results["combined"] + zero, combined + zero, f"rank {rank}: combined")

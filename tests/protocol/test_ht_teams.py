# SPDX-License-Identifier: Apache-2.0
"""High Throughput between LSA teams: what comes through the network is what comes inside a team."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ht
import nccl_ep as ep
import numpy as np
import pytest
from both import check_that_nothing_is_left_behind
from ht import (
    EM,
    FLAT,
    ROUTINGS,
    Exchange,
    Mode,
    Shape,
    check,
    group_config,
    make_problem,
    reroute,
)
from ht_runs import check_handles_in_turn, check_replays, check_same_bits, check_with_a_late_rank, exchange
from ll import FP16, FP32
from oracle import Problem, tokens_for_rank
from traffic import links_of

pytestmark = pytest.mark.sim_only
MODES = pytest.mark.parametrize(
    "mode",
    [
        Mode(FLAT),
        Mode(FLAT, windows=True),
        Mode(FLAT, backward=True),
        Mode(EM),
        Mode(EM, windows=True, alignment=4),
        Mode(EM, backward=True),
    ],
    ids=str,
)
FEW_MODES = pytest.mark.parametrize(
    "mode", [Mode(FLAT), Mode(FLAT, backward=True), Mode(EM, windows=True, alignment=4)], ids=str
)
TEAMS = pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (4, 1), (2, 4)], ids=["2x2", "4x1", "2x4"])


def run(make_cluster: Any, nodes: int, problem: Problem, mode: Mode, seed: int, **options: Any) -> None:
    """One step between teams of equal size, checked."""
    mode = in_teams(mode, problem, nodes)
    cluster = make_cluster(problem.num_ranks, seed, nodes=nodes, **options)
    check(problem, mode, cluster.run(exchange, problem, mode))


def in_teams(mode: Mode, problem: Problem, nodes: int) -> Mode:
    return replace(mode, team_size=problem.num_ranks // nodes)


@TEAMS
@MODES
def test_an_exchange(make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=nodes * gpus, num_topk=3, num_local_experts=3), seed)
    run(make_cluster, nodes, problem, mode, seed)


@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM)], ids=str)
def test_rails_are_enough(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3, num_local_experts=3), seed)
    run(make_cluster, 2, problem, mode, seed, rails_only=True)


@FEW_MODES
@pytest.mark.parametrize("routing", ROUTINGS)
def test_routings(make_cluster: Any, mode: Mode, routing: str, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=4, num_local_experts=3, repeats=True), seed)
    reroute(problem, routing, seed)
    run(make_cluster, 2, problem, mode, seed)


@MODES
@pytest.mark.parametrize("hidden", [8, 7176])
def test_chunks_of_parcels(make_cluster: Any, mode: Mode, hidden: int, seed: int) -> None:
    """Wide rows leave in several chunks, narrow ones in one."""
    shape = Shape(num_ranks=4, num_topk=2, hidden=hidden, max_tokens=24, tokens=(24, 0, 9, 17))
    run(make_cluster, 2, make_problem(shape, seed), mode, seed)


@FEW_MODES
@pytest.mark.parametrize("dtype", [FP16, FP32], ids=lambda dtype: dtype.name)
def test_types(make_cluster: Any, mode: Mode, dtype: Any, seed: int) -> None:
    run(make_cluster, 4, make_problem(Shape(num_ranks=4, num_topk=3, dtype=dtype), seed), mode, seed)


@FEW_MODES
@pytest.mark.parametrize("num_topk", [1, 9, 33, 64])
def test_topk(make_cluster: Any, mode: Mode, num_topk: int, seed: int) -> None:
    shape = Shape(num_ranks=4, num_local_experts=-(-num_topk // 4) + 1, num_topk=num_topk, max_tokens=5)
    run(make_cluster, 2, make_problem(shape, seed), mode, seed)


@FEW_MODES
@pytest.mark.parametrize("tokens", [(0, 0, 0, 0), (0, 5, 0, 0), (0, 0, 8, 1)], ids=str)
def test_ranks_without_tokens(make_cluster: Any, mode: Mode, tokens: Any, seed: int) -> None:
    run(make_cluster, 2, make_problem(Shape(num_ranks=4, tokens=tokens), seed), mode, seed)


@FEW_MODES
def test_many_tokens(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Several tiles a block, and many tokens of a team's list in every word."""
    shape = Shape(num_ranks=2, num_topk=2, hidden=8, max_tokens=300, tokens=(300, 141))
    run(make_cluster, 2, make_problem(shape, seed), mode, seed)


@FEW_MODES
@pytest.mark.parametrize(
    "options",
    [{"sms": 1}, {"sms": 16}, {"threads_per_block": 96}, {"network_contexts": 1}, {"network_contexts": 7}],
    ids=lambda options: "-".join(f"{name}-{value}" for name, value in options.items()),
)
def test_any_division_of_the_work(make_cluster: Any, mode: Mode, options: dict[str, int], seed: int) -> None:
    shape = Shape(num_ranks=4, num_topk=3, num_local_experts=3, hidden=3000, max_tokens=40)
    run(make_cluster, 2, make_problem(shape, seed), mode, seed, **options)


def test_teams_smaller_than_a_node(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = Mode(FLAT, team_size=2)
    check(problem, mode, make_cluster(4, seed, lsa_team_size=2).run(exchange, problem, mode))


def test_global_expert_ids(make_cluster: Any, seed: int) -> None:
    run(make_cluster, 2, make_problem(Shape(num_ranks=4), seed), Mode(FLAT, global_ids=True), seed)


@FEW_MODES
@pytest.mark.parametrize("zero_copy", [ep.ZeroCopyMode.OFF, ep.ZeroCopyMode.ON], ids=lambda z: z.name)
def test_zero_copy_off_and_on(make_cluster: Any, mode: Mode, zero_copy: ep.ZeroCopyMode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = replace(in_teams(mode, problem, 2), windows=True)
    cluster = make_cluster(4, seed, nodes=2)
    check(problem, mode, cluster.run(lambda rank: exchange(rank, problem, mode, zero_copy=zero_copy)))


@FEW_MODES
@pytest.mark.parametrize("routing", ["uniform", "one rank", "one expert"])
@pytest.mark.parametrize("nodes", [2, 4])
def test_what_does_not_fit_is_dropped(
    make_cluster: Any, mode: Mode, routing: str, nodes: int, seed: int
) -> None:
    """Also tokens that lose all their rows in a team."""
    shape = Shape(num_ranks=4, num_local_experts=3, num_topk=4, tokens=(8, 5, 8, 7), repeats=True)
    problem = make_problem(shape, seed)
    reroute(problem, routing, seed)
    run(make_cluster, nodes, problem, replace(mode, drop=True, budget=problem.max_tokens), seed)


def test_an_overflow_is_named_everywhere(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=1, max_tokens=8, tokens=(8,) * 4, no_route=0), seed)
    reroute(problem, "one rank", seed)
    mode = Mode(FLAT, team_size=2)

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, group_config(problem, replace(mode, budget=8))) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            with pytest.raises(ep.InvalidUsage) as failure:
                mine.dispatch(handle)
            return str(failure.value)

    for said in make_cluster(4, seed, nodes=2).run(main):
        assert "rank 0 would receive 32 rows" in said


@TEAMS
@MODES
def test_calls_follow_each_other_without_the_host(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    """Several handles in turn, forward and backward mixed, with nothing between them but the stream."""
    num_ranks = nodes * gpus
    problems = [make_problem(Shape(num_ranks=num_ranks, num_topk=2), seed + i) for i in range(3)]
    modes = [replace(mode, budget=64, backward=(i == 1), team_size=gpus) for i in range(3)]
    check_handles_in_turn(make_cluster(num_ranks, seed, nodes=nodes), problems, modes)


@MODES
def test_a_captured_step_follows_the_table_at_each_replay(make_cluster: Any, mode: Mode, seed: int) -> None:
    mode = replace(mode, budget=64, team_size=2)
    problems = [make_problem(Shape(num_ranks=4, tokens=(5, 7, 3, 4)), seed + i) for i in range(3)]
    check_replays(make_cluster(4, seed, nodes=2), problems, mode)


@MODES
def test_same_bits_in_every_run(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=4), seed=0)
    check_same_bits(partial(make_cluster, nodes=2), problem, in_teams(mode, problem, 2), seed)


def test_dispatch_is_the_same_whatever_the_teams(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=4), seed)
    mode = Mode(FLAT)
    one, two, four = (make_cluster(4, seed, nodes=n).run(exchange, problem, mode) for n in (1, 2, 4))
    for name in ("received", "received_weights", "received_idx", "expert_counters", "total"):
        for mine, others in zip(one, zip(two, four, strict=True), strict=True):
            for other in others:
                ht.assert_same_bits(mine[name], other[name], name)


@FEW_MODES
def test_a_late_node_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)
    mode = in_teams(mode, problem, 2)
    cluster = make_cluster(4, seed, nodes=2)
    cluster.sim.delay(3, 20_000)
    check_with_a_late_rank(cluster, problem, mode, late=2, num_steps=3)


@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_4x4_ranks(make_cluster: Any, layout: ep.Layout) -> None:
    shape = Shape(num_ranks=16, num_local_experts=1, num_topk=4, hidden=16, max_tokens=2)
    run(make_cluster, 4, make_problem(shape, seed=1), Mode(layout), 1, sms=1, threads_per_block=96)


def test_8x8_ranks(make_cluster: Any) -> None:
    """Without the checker, which would take most of the time."""
    shape = Shape(num_ranks=64, num_local_experts=1, num_topk=4, hidden=8, max_tokens=1, tokens=(1,) * 64)
    options = {"sms": 1, "threads_per_block": 96, "checker": False}
    run(make_cluster, 8, make_problem(shape, seed=1), Mode(FLAT), 1, **options)


@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_the_caller_owns_the_handle_memory(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = Mode(layout, team_size=2)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            num_bytes = group.handle_mem_size(layout, problem.num_topk)
            memory = rank.array(np.full(num_bytes, 0xA5, np.uint8))
            with mine.make_handle(group, handle_mem=memory) as handle:
                mine.run(handle)
                return mine.results()

    check(problem, mode, make_cluster(4, seed, nodes=2).run(main))


def test_nothing_is_left_behind(make_cluster: Any) -> None:
    mode = Mode(FLAT, budget=32)
    problem = make_problem(Shape(num_ranks=4), seed=1)
    make_exchange = partial(Exchange, problem=problem, mode=mode)
    check_that_nothing_is_left_behind(make_cluster(4, nodes=2), group_config(problem, mode), make_exchange)


@pytest.mark.parametrize(
    "mode", [Mode(FLAT), Mode(FLAT, backward=True), Mode(EM), Mode(EM, windows=True)], ids=str
)
@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (2, 4), (4, 1)], ids=["2x2", "2x4", "4x1"])
def test_rails_carry_each_token_once_for_each_team(
    make_cluster: Any, mode: Mode, nodes: int, gpus: int
) -> None:
    """And little besides. Ranks that have different places in their teams exchange nothing."""
    num_ranks = nodes * gpus
    shape = Shape(num_ranks, num_local_experts=4, num_topk=8, hidden=2048, max_tokens=64, no_route=0)
    problem = make_problem(replace(shape, tokens=(64,) * num_ranks), seed=1)
    cluster = make_cluster(num_ranks, nodes=nodes, checker=False)

    def main(rank: Any) -> list[Any]:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            calls = (mine.dispatch, mine.combine)
            return [links_of(cluster, rank, partial(call, handle)) for call in calls]

    team, place = np.divmod(np.arange(num_ranks), gpus)
    is_remote = team[:, None] != team[None, :]
    is_rail = is_remote & (place[:, None] == place[None, :])
    num_parcels = sum(
        parcels(problem, source, there, gpus) for source, there in zip(*np.nonzero(is_rail), strict=True)
    )
    ideal = num_parcels * problem.hidden * problem.dtype.itemsize
    for name, links in zip(("dispatch", "combine"), cluster.run(main)[0], strict=True):
        found = int(links[is_rail]["bytes"].sum())
        assert 1 <= found / ideal <= 1.05, f"{name}: {found} bytes for {ideal} of rows"
        assert not links[is_remote & ~is_rail]["bytes"].any(), name
        assert not links[is_remote]["stores"].any(), name
        assert not links[~is_remote]["gin_puts"].any(), name


def parcels(problem: Problem, source: int, peer: int, team_size: int) -> int:
    """A source's tokens that go to a rank of the peer's team."""
    first = peer // team_size * team_size
    return len(
        {t for rank in range(first, first + team_size) for t in tokens_for_rank(problem, source, rank)}
    )


@FEW_MODES
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
def test_a_dead_node_is_named(make_cluster: Any, mode: Mode, call: str, seed: int) -> None:
    """The ranks of the others give up in time, and each names one of its ranks."""
    shape = Shape(num_ranks=6, max_tokens=8, tokens=(8,) * 6, no_route=0, num_topk=3)
    problem = make_problem(shape, seed)
    mode = replace(in_teams(mode, problem, 3), budget=64)
    lost = {2, 3}

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, group_config(problem, mode, timeout_ns=1_000_000)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            if call == "combine":
                mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank == min(lost):
                cluster.sim.lose_node(1)
            rank.barrier()
            if rank.rank in lost:
                return ""
            getattr(mine, call)(handle)
            rank.synchronize()
            with pytest.raises(ep.RemoteError) as failure:
                mine.dispatch(handle)
            return str(failure.value)

    cluster = make_cluster(6, seed, nodes=3)
    for rank, said in enumerate(cluster.run(main)):
        if rank not in lost:
            assert f"rank {rank} waited" in said
            assert any(f"from rank {peer} " in said for peer in lost), said

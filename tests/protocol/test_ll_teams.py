# SPDX-License-Identifier: Apache-2.0
"""Groups of several LSA teams: what holds inside one team holds across the network.

What the other files' tests check for one team and for several is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import (
    BF16,
    EM,
    FP16,
    FP32,
    RM,
    Exchange,
    Shape,
    assert_same_bits,
    check,
    exchange,
    group_config,
    make_problem,
)

pytestmark = pytest.mark.sim_only
LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
TEAMS = pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (4, 1), (2, 4)], ids=["2x2", "4x1", "2x4"])


def run_rounds(
    cluster: Any, layout: ep.Layout, problems: list[Any], run: Callable[[Exchange, ep.Handle], None]
) -> None:
    """Some problems one after the other, without waiting for the host, each with a handle of its own."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            rounds = [Exchange(rank, problem, layout) for problem in problems]
            handles = [mine.make_handle(group) for mine in rounds]
            for mine, handle in zip(rounds, handles, strict=True):
                run(mine, handle)
            return [mine.results() for mine in rounds]

    results = cluster.run(main)
    for i, problem in enumerate(problems):
        check(problem, layout, [result[i] for result in results])


def run_in_halves(mine: Exchange, handle: ep.Handle) -> None:
    mine.dispatch(handle, send_only=True)
    handle.complete()
    mine.combine(handle, send_only=True)
    handle.complete()


@LAYOUTS
@TEAMS
def test_calls_in_a_row(make_cluster: Any, nodes: int, gpus: int, layout: ep.Layout, seed: int) -> None:
    shape = Shape(num_ranks=nodes * gpus, num_topk=3, num_local_experts=3, hidden=160, max_tokens=6)
    problems = [make_problem(shape, seed * 100 + i) for i in range(3)]
    run_rounds(make_cluster(nodes * gpus, seed, nodes=nodes), layout, problems, Exchange.run)


@LAYOUTS
def test_send_now_receive_later(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    shape = Shape(num_ranks=4, num_topk=3, num_local_experts=3, hidden=160, max_tokens=6)
    problems = [make_problem(shape, seed * 100 + i) for i in range(3)]
    run_rounds(make_cluster(4, seed, nodes=2), layout, problems, run_in_halves)


@LAYOUTS
def test_teams_do_not_show_in_the_results(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=6, num_local_experts=5, hidden=320), seed)
    of_one, *others = (
        make_cluster(4, seed, nodes=nodes).run(exchange, problem, layout) for nodes in (1, 2, 4)
    )
    for of_several in others:
        for rank, (one, other) in enumerate(zip(of_one, of_several, strict=True)):
            for name in one:
                assert_same_bits(other[name], one[name], f"rank {rank}: {name}")


@LAYOUTS
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=lambda dtype: dtype.name)
def test_types(make_cluster: Any, layout: ep.Layout, dtype: Any, seed: int) -> None:
    idx_dtype = (np.int32, np.int64)[seed % 2]
    problem = make_problem(Shape(num_ranks=4, dtype=dtype, idx_dtype=idx_dtype, num_topk=4), seed)
    check(problem, layout, make_cluster(4, seed, nodes=2).run(exchange, problem, layout))


@LAYOUTS
@pytest.mark.parametrize("num_topk", [1, 9, 33, 64])
def test_topk(make_cluster: Any, layout: ep.Layout, num_topk: int, seed: int) -> None:
    """Repeated experts count once, and their weights add up."""
    shape = Shape(num_local_experts=-(-num_topk // 2) + 1, num_topk=num_topk, max_tokens=5, repeats=True)
    problem = make_problem(shape, seed)
    check(problem, layout, make_cluster(2, seed, nodes=2).run(exchange, problem, layout))


@LAYOUTS
@pytest.mark.parametrize("hidden", [8, 40, 2880, 7168])
def test_hidden(make_cluster: Any, layout: ep.Layout, hidden: int) -> None:
    problem = make_problem(Shape(hidden=hidden, tokens=(3, 2), max_tokens=4), seed=hidden)
    check(problem, layout, make_cluster(2, nodes=2).run(exchange, problem, layout))


@pytest.mark.parametrize("num_sms", [1, 4])
def test_experts_are_counted_in_several_passes(make_cluster: Any, num_sms: int, seed: int) -> None:
    shape = Shape(num_local_experts=4099, num_topk=7, hidden=8, max_tokens=33, repeats=True)
    problem = make_problem(shape, seed)
    for routes in problem.topk_idx:
        routes[:, :4] = routes[:, :4] % 8 + 4092  # around the end of the first pass
    main = partial(exchange, problem=problem, layout=EM, max_num_sms=num_sms)
    check(problem, EM, make_cluster(2, seed, nodes=2).run(main))


@LAYOUTS
@pytest.mark.parametrize("tokens", [(0, 0, 0, 0), (0, 5, 0, 3), (7, 0, 0, 0), (1, 8, 33, 40)], ids=str)
def test_token_counts_differ_between_ranks(
    make_cluster: Any, layout: ep.Layout, tokens: tuple[int, ...], seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3, tokens=tokens, max_tokens=40), seed)
    check(problem, layout, make_cluster(4, seed, nodes=2).run(exchange, problem, layout))


@LAYOUTS
def test_tokens_without_routes_get_zeros(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, no_route=1.0, tokens=(4, 3, 2, 1)), seed)
    check(problem, layout, make_cluster(4, seed, nodes=2).run(exchange, problem, layout))


@LAYOUTS
def test_all_tokens_to_one_expert(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=1, tokens=(8, 8, 8, 8)), seed)
    for routes in problem.topk_idx:
        routes[...] = 3
    check(problem, layout, make_cluster(4, seed, nodes=2).run(exchange, problem, layout))


def test_global_expert_ids_and_windows(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    main = partial(exchange, problem=problem, layout=RM, global_ids=True, windows=True)
    check(problem, RM, make_cluster(4, seed, nodes=2).run(main), global_ids=True)


@LAYOUTS
@pytest.mark.parametrize(
    "options",
    [
        {"sms": 1},
        {"sms": 16},
        {"threads_per_block": 64},
        {"network_contexts": 1},
        {"network_contexts": 7},
        {"lsa_team_size": 2},
    ],
    ids=lambda options: "-".join(f"{name}-{value}" for name, value in options.items()),
)
def test_any_division_of_the_work(
    make_cluster: Any, layout: ep.Layout, options: dict[str, int], seed: int
) -> None:
    """Blocks, warps, contexts, and teams that are smaller than a node."""
    shape = Shape(num_ranks=4, num_topk=3, num_local_experts=3, hidden=640, max_tokens=40)
    nodes = 1 if "lsa_team_size" in options else 2
    problem = make_problem(shape, seed)
    check(problem, layout, make_cluster(4, seed, nodes=nodes, **options).run(exchange, problem, layout))


@LAYOUTS
def test_4x4_ranks(make_cluster: Any, layout: ep.Layout) -> None:
    shape = Shape(num_ranks=16, num_local_experts=1, num_topk=4, hidden=16, max_tokens=2)
    problems = [make_problem(shape, seed) for seed in (1, 2)]
    run_rounds(make_cluster(16, nodes=4, sms=1, threads_per_block=64), layout, problems, Exchange.run)


def test_8x8_ranks(make_cluster: Any) -> None:
    """Without the checker, which would take most of the time."""
    problem = make_problem(
        Shape(num_ranks=64, num_local_experts=1, num_topk=4, hidden=16, max_tokens=2), seed=1
    )
    cluster = make_cluster(64, nodes=8, sms=1, threads_per_block=64, checker=False)
    check(problem, EM, cluster.run(exchange, problem, EM))

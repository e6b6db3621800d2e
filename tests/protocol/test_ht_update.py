# SPDX-License-Identifier: Apache-2.0
"""Update counts what each rank receives as the oracle does, whatever the routing, types and launch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, budget_for, check_counters, group_config, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])


def count(rank: Any, problem: Any, mode: Mode, **config: Any) -> Any:
    with ep.Group(rank.comm, group_config(problem, mode, **config)) as group:
        mine = Exchange(rank, problem, mode)
        with mine.make_handle(group):
            return mine.counters()


@LAYOUTS
@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_ranks(make_cluster: Any, layout: ep.Layout, num_ranks: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=num_ranks, num_topk=2), seed)
    mode = Mode(layout)
    check_counters(problem, mode, make_cluster(num_ranks, seed).run(count, problem, mode))


@LAYOUTS
@pytest.mark.parametrize("idx_dtype", [np.int32, np.int64])
def test_ids_of_either_width(make_cluster: Any, layout: ep.Layout, idx_dtype: type, seed: int) -> None:
    problem = make_problem(Shape(idx_dtype=idx_dtype, num_topk=4), seed)
    mode = Mode(layout)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


def test_wide_counters(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_local_experts=40, num_topk=4), seed)
    mode = Mode(EM, counter_dtype=np.int64)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@pytest.mark.parametrize("alignment", [1, 2, 8, 128])
def test_alignment(make_cluster: Any, alignment: int, seed: int) -> None:
    problem = make_problem(Shape(num_local_experts=5, num_topk=3), seed)
    mode = Mode(EM, alignment=alignment)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@LAYOUTS
@pytest.mark.parametrize("num_topk", [1, 8, 9, 31, 33, 64])
def test_topk(make_cluster: Any, layout: ep.Layout, num_topk: int, seed: int) -> None:
    shape = Shape(num_local_experts=-(-num_topk // 2) + 1, num_topk=num_topk, max_tokens=5, repeats=True)
    problem = make_problem(shape, seed)
    mode = Mode(layout)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@LAYOUTS
@pytest.mark.parametrize("tokens", [(0, 0), (0, 5), (8, 0), (1, 8)], ids=str)
def test_token_counts_differ_between_ranks(
    make_cluster: Any, layout: ep.Layout, tokens: Any, seed: int
) -> None:
    problem = make_problem(Shape(tokens=tokens), seed)
    mode = Mode(layout)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@LAYOUTS
def test_no_routes(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(no_route=1.0, tokens=(4, 3)), seed)
    mode = Mode(layout)
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@LAYOUTS
@pytest.mark.parametrize("num_sms", [1, 3, 4])
def test_tokens_of_many_tiles(make_cluster: Any, layout: ep.Layout, num_sms: int, seed: int) -> None:
    """Blocks, and tiles of a block, add up."""
    shape = Shape(num_topk=2, hidden=8, max_tokens=600, tokens=(600, 130), repeats=True)
    problem = make_problem(shape, seed)
    mode = Mode(layout)
    results = make_cluster(2, seed).run(lambda rank: count(rank, problem, mode, max_num_sms=num_sms))
    check_counters(problem, mode, results)


@LAYOUTS
def test_updates_of_different_sizes_follow_each_other(
    make_cluster: Any, layout: ep.Layout, seed: int
) -> None:
    """What an earlier update with more blocks has left is not taken for counts of a later one."""
    mode = Mode(layout)
    problems = [
        make_problem(Shape(num_topk=2, hidden=8, max_tokens=400, tokens=tokens), seed + i)
        for i, tokens in enumerate([(400, 300), (3, 140), (270, 0), (400, 400), (1, 1)])
    ]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0], mode)) as group:
            exchanges = [Exchange(rank, problem, mode) for problem in problems]
            handle = exchanges[0].make_handle(group)
            for mine in exchanges[1:]:
                mine.update(handle)
            return [mine.counters() for mine in exchanges]

    results = make_cluster(2, seed).run(main)
    for i, problem in enumerate(problems):
        check_counters(problem, mode, [result[i] for result in results])


@LAYOUTS
def test_no_counter_need_be_given(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(), seed)
    mode = Mode(layout)

    def main(rank: Any) -> None:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = group.create_handle(layout, mine.topk_idx)
            handle.update(mine.topk_idx, layout_info=ep.LayoutInfo(recv_total_counter=mine.total))
            handle.update(mine.topk_idx, layout_info=ep.LayoutInfo())
            wanted = mine.rank.read(mine.total)[0]
            mine.update(handle)
            assert mine.counters()["total"][0] == wanted

    make_cluster(2, seed).run(main)


@LAYOUTS
def test_a_captured_update_counts_what_the_table_holds_at_each_replay(
    make_cluster: Any, layout: ep.Layout, seed: int
) -> None:
    mode = Mode(layout)
    problems = [make_problem(Shape(tokens=(5, 7)), seed + i) for i in range(3)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0], mode)) as group:
            mine = Exchange(rank, problems[0], mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            with rank.capture() as graph:
                mine.update(handle, graph.stream)
            seen = []
            for problem in problems:
                rank.write(mine.topk_idx, problem.topk_idx[rank.rank])
                graph.launch()
                rank.synchronize()
                seen.append(mine.counters())
            return seen

    results = make_cluster(2, seed).run(main)
    for i, problem in enumerate(problems):
        check_counters(problem, mode, [result[i] for result in results])


@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM), Mode(EM, alignment=4)], ids=str)
def test_rows_beyond_the_budget_are_an_error_that_says_where(
    make_cluster: Any, mode: Mode, seed: int
) -> None:
    """All tokens go to rank 1, which has room for one rank's."""
    problem = make_problem(Shape(num_topk=2, no_route=0, tokens=(8, 8)), seed)
    for routes in problem.topk_idx:
        routes[...] = [2, 3]
    wanted = {FLAT: 16, EM: 32}[mode.layout]

    def main(rank: Any) -> ep.Error:
        with ep.Group(rank.comm, group_config(problem, replace(mode, budget=problem.max_tokens))) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            assert isinstance(group.async_error(), ep.InvalidUsage)
            with pytest.raises(ep.InvalidUsage) as failure:
                mine.dispatch(handle)
            return failure.value

    for failure in make_cluster(2, seed).run(main):
        assert f"rank 1 would receive {wanted} rows" in failure.message
        assert "max_recv_tokens_per_rank = 8" in failure.message


@LAYOUTS
def test_a_budget_that_is_just_enough(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_topk=2, no_route=0, tokens=(8, 8)), seed)
    mode = Mode(layout, budget=budget_for(problem, Mode(layout)))
    check_counters(problem, mode, make_cluster(2, seed).run(count, problem, mode))


@LAYOUTS
def test_an_expert_that_does_not_exist_is_an_error_that_names_it(
    make_cluster: Any, layout: ep.Layout
) -> None:
    problem = make_problem(Shape(tokens=(4, 4), no_route=0), seed=1)
    mode = Mode(layout, budget=32)

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, group_config(problem, mode, timeout_ns=1_000_000)) as group:
            mine = Exchange(rank, problem, mode)
            if rank.rank == 1:
                routes = problem.topk_idx[1].copy()
                routes[2, 1] = 4
                rank.write(mine.topk_idx, routes)
            handle = mine.make_handle(group)
            rank.synchronize()
            if rank.rank == 0:
                group.async_error()  # it may have waited in vain
                return ""
            with pytest.raises(ep.InvalidArgument) as failure:
                mine.update(handle)
            return failure.value.message

    assert "rank 1 routes token 2 to expert 4" in make_cluster(2).run(main)[1]

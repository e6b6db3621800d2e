# SPDX-License-Identifier: Apache-2.0
"""What a rank has no room for is dropped: evenly, the same everywhere, and as if it had never been routed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ht_oracle as oracle
import nccl_ep as ep
import numpy as np
import pytest
from ht import (
    EM,
    FLAT,
    Exchange,
    Mode,
    Shape,
    budget_for,
    check,
    counts,
    group_config,
    make_problem,
    reroute,
)
from ht_runs import (
    check_handles_in_turn,
    check_replays,
    check_same_bits,
    check_with_a_late_rank,
    exchange,
)
from ll import POISON
from oracle import Problem

MODES = pytest.mark.parametrize(
    "mode",
    [
        Mode(FLAT, drop=True),
        Mode(FLAT, drop=True, windows=True),
        Mode(FLAT, drop=True, backward=True),
        Mode(EM, drop=True),
        Mode(EM, drop=True, alignment=4),
        Mode(EM, drop=True, windows=True),
        Mode(EM, drop=True, windows=True, alignment=4),
        Mode(EM, drop=True, backward=True, alignment=4),
    ],
    ids=str,
)
ROUTED = Shape(num_ranks=4, num_local_experts=3, num_topk=4, tokens=(8, 5, 8, 7), repeats=True)


def too_small(problem: Problem, mode: Mode, part: float = 0.0) -> Mode:
    """The same with a budget between the smallest that is allowed and, for 1.0, one row less than enough."""
    least, enough = problem.max_tokens, budget_for(problem, mode)
    return replace(mode, budget=least + int(part * max(0, enough - 1 - least)))


def one_rank(shape: Shape, seed: int) -> Problem:
    """All tokens go to two experts of rank 1."""
    problem = make_problem(replace(shape, num_topk=2, num_local_experts=2, no_route=0, repeats=False), seed)
    for routes in problem.topk_idx:
        routes[...] = [2, 3]
    return problem


@MODES
@pytest.mark.parametrize("routing", ["uniform", "zipf", "one rank", "one expert"])
def test_routings(make_cluster: Any, mode: Mode, routing: str, seed: int) -> None:
    problem = make_problem(ROUTED, seed)
    reroute(problem, routing, seed)
    mode = too_small(problem, mode)
    check(problem, mode, make_cluster(4, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("routing", ["uniform", "one rank"])
def test_budgets(make_cluster: Any, mode: Mode, part: float, routing: str) -> None:
    problem = make_problem(replace(ROUTED, no_route=0, repeats=False), seed=4)
    reroute(problem, routing, seed=4)
    mode = too_small(problem, mode, part)
    assert max(counts(problem, rank, mode).total for rank in range(4)) > mode.budget
    check(problem, mode, make_cluster(4).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("num_ranks", [1, 2, 8])
def test_ranks(make_cluster: Any, mode: Mode, num_ranks: int, seed: int) -> None:
    shape = Shape(num_ranks=num_ranks, num_local_experts=4, num_topk=4, max_tokens=5, no_route=0)
    problem = make_problem(shape, seed)
    reroute(problem, "zipf", seed)
    mode = too_small(problem, mode)
    check(problem, mode, make_cluster(num_ranks, seed).run(exchange, problem, mode))


@MODES
def test_with_room_for_all_nothing_is_dropped(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(ROUTED, seed)
    mode = replace(mode, budget=budget_for(problem, mode))
    results = make_cluster(4, seed).run(exchange, problem, mode)
    check(problem, mode, results)
    check(problem, replace(mode, drop=False), results)


@pytest.mark.parametrize("alignment", [8, 16])
def test_an_expert_gets_whole_alignments_or_nothing(make_cluster: Any, alignment: int, seed: int) -> None:
    """The last time there is no room for a single one."""
    problem = make_problem(replace(ROUTED, no_route=0), seed)
    mode = Mode(EM, drop=True, alignment=alignment, budget=8)
    results = make_cluster(4, seed).run(exchange, problem, mode)
    check(problem, mode, results)
    assert all(sum(result["expert_counters"]) == (8 if alignment == 8 else 0) for result in results)


@MODES
@pytest.mark.parametrize("num_sms", [1, 3, 0])
def test_tokens_of_many_tiles(make_cluster: Any, mode: Mode, num_sms: int) -> None:
    """Blocks, and tiles of a block, find the same."""
    shape = Shape(num_topk=2, hidden=8, max_tokens=300, tokens=(300, 130), repeats=True)
    problem = make_problem(shape, seed=1)
    reroute(problem, "zipf", seed=1)
    mode = too_small(problem, mode)
    results = make_cluster(2).run(lambda rank: exchange(rank, problem, mode, max_num_sms=num_sms))
    check(problem, mode, results)


@pytest.mark.parametrize("num_topk", [33, 64])
def test_many_experts(make_cluster: Any, num_topk: int, seed: int) -> None:
    """Zones are found for 32 experts at a time, and a lane has two places of a top-k."""
    problem = make_problem(Shape(num_local_experts=70, num_topk=num_topk, tokens=(8, 8), no_route=0.1), seed)
    for mode in (Mode(EM, drop=True, counter_dtype=np.int64), Mode(FLAT, drop=True)):
        mode = too_small(problem, mode, 0.4)
        check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


def test_each_source_keeps_its_share(make_cluster: Any, seed: int) -> None:
    """Whatever the budget, within one row; and so does each half of a source's tokens."""
    problem = one_rank(Shape(num_ranks=4, max_tokens=40, hidden=8, tokens=(40, 4, 21, 40)), seed)
    for budget in (40, 53, 104):
        mode = Mode(FLAT, drop=True, budget=budget)
        received = make_cluster(4, seed).run(exchange, problem, mode)[1]["received"][:budget]
        rows = {row.tobytes() for row in received}
        for tokens in problem.tokens:
            for part in (tokens, tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]):
                kept = sum(token.tobytes() in rows for token in part)
                assert abs(kept - len(part) * budget / 105) < 1


def test_each_expert_keeps_its_share(make_cluster: Any, seed: int) -> None:
    """Within one alignment."""
    problem = make_problem(replace(ROUTED, max_tokens=40, tokens=(40, 40, 13, 40), no_route=0), seed)
    reroute(problem, "zipf", seed)
    mode = too_small(problem, Mode(EM, drop=True, alignment=4), 0.2)
    for rank, found in enumerate(make_cluster(4, seed).run(exchange, problem, mode)):
        wanted = counts(problem, rank, replace(mode, drop=False))
        share = min(1, mode.budget // 4 * 4 / max(1, wanted.total))
        for kept, all_of_it in zip(found["expert_counters"], wanted.experts, strict=True):
            assert abs(kept - all_of_it * share) < 4


@MODES
def test_a_token_of_which_nothing_is_kept_gets_zeros(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = one_rank(Shape(tokens=(8, 8), hidden=8), seed)
    for routes in problem.topk_idx:
        routes[:, 1] = -1
    mode = replace(mode, budget=8)
    results = make_cluster(2, seed).run(exchange, problem, mode)
    check(problem, mode, results)
    combined = np.concatenate([result["combined"] for result in results])
    assert sum(row.astype(np.float32).any() for row in combined) == 8
    assert not any(row.astype(np.float32).any() for row in combined[0:16:2])


@MODES
def test_nothing_behind_the_budget_is_touched(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = one_rank(Shape(tokens=(8, 8)), seed)
    mode = replace(mode, budget=9)
    for result in make_cluster(2, seed).run(exchange, problem, mode):
        assert len(result["received"]) > 9
        assert (result["received"][9:].astype(np.float32) == POISON).all()
        assert (result["received_weights"][9:] == POISON).all()


@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_the_total_counts_what_is_dropped(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = one_rank(Shape(tokens=(8, 8)), seed)
    mode = Mode(layout, drop=True, budget=8)
    found = make_cluster(2, seed).run(exchange, problem, mode)[1]
    assert found["total"][0] == (32 if layout is EM else 16)
    assert found["expert_counters"].tolist() == ([4, 4] if layout is EM else [8, 8])


@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_no_counter_need_be_given(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = one_rank(Shape(tokens=(8, 8)), seed)
    mode = Mode(layout, drop=True, budget=8)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            handle.update(mine.topk_idx, layout_info=ep.LayoutInfo())
            mine.run(handle)
            return mine.results()

    check(problem, mode, make_cluster(2, seed).run(main))


@MODES
def test_combine_takes_as_many_rows_as_are_kept(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = one_rank(Shape(tokens=(8, 8)), seed)
    mode = replace(mode, budget=11)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            kept = 0 if rank.rank == 0 else 11 // mode.alignment * mode.alignment
            mine.expert_rows, mine.gradients = mine.expert_rows[:kept], mine.gradients[:kept]
            with mine.make_handle(group) as handle:
                mine.run(handle)
                return mine.results()

    check(problem, mode, make_cluster(2, seed).run(main))


@MODES
def test_a_graph_drops_what_the_table_of_each_replay_has_too_much(
    make_cluster: Any, mode: Mode, seed: int
) -> None:
    """Too much and little in turn: what one replay has left behind does not come up in the next."""
    shape = replace(ROUTED, tokens=(8, 8, 8, 8), no_route=0)
    problems = [make_problem(shape, seed + i) for i in range(4)]
    for i, routing in enumerate(["one rank", "uniform", "one expert", "uniform"]):
        reroute(problems[i], routing, seed)
    problems[1].topk_idx[0][...] = problems[3].topk_idx[2][...] = -1
    mode = replace(mode, budget=20)
    check_replays(make_cluster(4, seed), problems, mode)


@MODES
def test_calls_follow_each_other_without_the_host(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Handles of both layouts, with and without enough room."""
    problems = [make_problem(ROUTED, seed + i) for i in range(3)]
    reroute(problems[1], "one rank", seed)
    other = replace(mode, layout=FLAT if mode.layout is EM else EM, alignment=1)
    modes = [replace(own_mode, budget=16) for own_mode in (mode, other, mode)]
    check_handles_in_turn(make_cluster(4, seed), problems, modes)


@pytest.mark.sim_only
@MODES
def test_a_late_rank_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(ROUTED, seed)
    reroute(problem, "zipf", seed)
    mode = too_small(problem, mode)
    check_with_a_late_rank(make_cluster(4, seed), problem, mode, late=seed % 4, num_steps=2)


@MODES
def test_same_bits_in_every_run(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(ROUTED, seed=0)
    mode = too_small(problem, mode)
    check_same_bits(make_cluster, problem, mode, seed)


def test_the_oracle_drops_as_documented() -> None:
    """Worked by hand: 7 rows, room for 3, and zones of 7 and 2 tokens with room for 4."""
    problem = one_rank(Shape(tokens=(4, 3)), seed=1)
    assert [(row.source, row.token) for row in oracle.rows_of(problem, 1, room=3)] == [(0, 2), (1, 0), (1, 2)]
    for routes, named in zip(problem.topk_idx, (1, 1), strict=True):
        routes[named:, 1] = -1
    assert [zone.begin for zone in oracle.zones_of(problem, 1, room=4)] == [0, 3]
    first, second = oracle.zones_of(problem, 1, room=4)
    assert first.tokens == [(0, 2), (1, 0), (1, 2)]
    assert second.tokens == [(1, 0)]

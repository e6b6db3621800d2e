# SPDX-License-Identifier: Apache-2.0
"""High Throughput between LSA teams in groups with ``exact_combine``: sums are the bits of one team's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from exact import check_high_throughput, combine_high_throughput
from ht import EM, ROUTINGS, Exchange, Mode, group_config, reroute
from ht_mask_runs import (
    draw_moments,
    run_while_all_answer,
    run_with_late_ranks,
    run_with_some_that_come_back,
)
from ht_mask_teams import (
    in_teams,
    run_until_the_lost_are_gone,
    run_with_a_cut_rail,
    run_with_deaths_before,
    run_with_gradients_lost,
    run_with_minus_zeros,
    run_with_the_dead,
    run_without_lists,
)
from ht_runs import check_handles_in_turn, check_replays, check_same_bits, check_with_a_late_rank
from ll import BF16, FP16, FP32, Shape, assert_same_bits, make_problem
from masks import ranks_of
from oracle import Problem
from traffic import links_of

pytestmark = pytest.mark.sim_only
EXACT = Mode(EM, exact=True)
BACKWARD = replace(EXACT, backward=True)
MODES = [EXACT, replace(EXACT, windows=True, alignment=4), BACKWARD, replace(EXACT, drop=True, alignment=2)]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=str)
BOTH_PASSES = pytest.mark.parametrize("mode", [EXACT, BACKWARD], ids=str)
TEAMS = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (4, 1), (3, 2), (2, 4)], ids=["2x2", "4x1", "3x2", "2x4"]
)


def run(make_cluster: Any, nodes: int, problem: Problem, mode: Mode, seed: int, **options: Any) -> Any:
    """A step and one more in teams of equal size, checked."""
    mode = replace(mode, team_size=problem.num_ranks // nodes)
    if mode.drop:
        mode = replace(mode, budget=problem.max_tokens)
    problems = [problem, problem]
    cluster = make_cluster(problem.num_ranks, seed, nodes=nodes, **options)
    results = cluster.run(partial(combine_high_throughput, problems=problems, mode=mode))
    check_high_throughput(problems, mode, results)
    return [found[0]["combined"] for found in results]


@TEAMS
@EVERY_MODE
def test_sums_are_those_of_a_plain_loop(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    shape = Shape(nodes * gpus, num_topk=5, num_local_experts=4, repeats=mode.windows, max_tokens=6)
    run(make_cluster, nodes, make_problem(shape, seed), mode, seed)


@EVERY_MODE
@pytest.mark.parametrize("routing", ROUTINGS)
def test_routings(make_cluster: Any, mode: Mode, routing: str, seed: int) -> None:
    problem = make_problem(Shape(4, num_topk=4, num_local_experts=3, repeats=True), seed)
    reroute(problem, routing, seed)
    run(make_cluster, 2, problem, mode, seed)


def test_the_same_bits_whatever_the_teams(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(4, num_topk=8, num_local_experts=3, no_route=0), seed)
    one, two, four = (run(make_cluster, nodes, problem, EXACT, seed) for nodes in (1, 2, 4))
    for mine, *others in zip(one, two, four, strict=True):
        for other in others:
            assert_same_bits(mine, other, "combined")


@pytest.mark.parametrize(
    "shape",
    [
        Shape(4, num_topk=3, hidden=3000, max_tokens=4, dtype=FP32),
        Shape(4, num_topk=40, num_local_experts=24, hidden=16, max_tokens=3, dtype=FP16),
        Shape(4, num_topk=64, num_local_experts=32, hidden=8, max_tokens=3, no_route=0),
        Shape(4, num_topk=2, hidden=7176, max_tokens=24, tokens=(24, 0, 9, 17)),
        Shape(4, num_topk=2, hidden=8, max_tokens=150, tokens=(150, 0, 70, 7)),
    ],
    ids=str,
)
@BOTH_PASSES
def test_rows(make_cluster: Any, shape: Shape, mode: Mode, seed: int) -> None:
    """More hits than a warp has lanes; several chunks of parcels, and several parcels a lane."""
    run(make_cluster, 2, make_problem(shape, seed), mode, seed)


@BOTH_PASSES
@pytest.mark.parametrize("tokens", [(0, 0, 0, 0), (0, 5, 0, 0), (0, 0, 8, 1)], ids=str)
def test_ranks_without_tokens(make_cluster: Any, mode: Mode, tokens: Any, seed: int) -> None:
    run(make_cluster, 2, make_problem(Shape(4, tokens=tokens), seed), mode, seed)


@BOTH_PASSES
@pytest.mark.parametrize(
    "options",
    [{"sms": 1}, {"sms": 16}, {"threads_per_block": 96}, {"network_contexts": 1}, {"network_contexts": 7}],
    ids=lambda options: "-".join(f"{name}-{value}" for name, value in options.items()),
)
def test_any_division_of_the_work(make_cluster: Any, mode: Mode, options: dict[str, int], seed: int) -> None:
    shape = Shape(4, num_topk=3, num_local_experts=3, hidden=3000, max_tokens=30)
    run(make_cluster, 2, make_problem(shape, seed), mode, seed, **options)


@TEAMS
def test_calls_follow_each_other_without_the_host(
    make_cluster: Any, nodes: int, gpus: int, seed: int
) -> None:
    problems = [make_problem(Shape(nodes * gpus, num_topk=3), seed + i) for i in range(3)]
    modes = [replace(EXACT, budget=64, backward=(i == 1), team_size=gpus) for i in range(3)]
    check_handles_in_turn(make_cluster(nodes * gpus, seed, nodes=nodes), problems, modes)


@BOTH_PASSES
def test_a_captured_step_follows_the_table_at_each_replay(make_cluster: Any, mode: Mode, seed: int) -> None:
    problems = [make_problem(Shape(4, tokens=(5, 7, 3, 4)), seed + i) for i in range(3)]
    mode = replace(mode, budget=64, team_size=2)
    check_replays(make_cluster(4, seed, nodes=2), problems, mode)


def test_same_bits_in_every_run(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(4, num_topk=4), seed=0)
    check_same_bits(partial(make_cluster, nodes=2), problem, replace(EXACT, team_size=2), seed)


@BOTH_PASSES
def test_a_late_node_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(4), seed)
    cluster = make_cluster(4, seed, nodes=2)
    cluster.sim.delay(3, 20_000)
    check_with_a_late_rank(cluster, problem, replace(mode, team_size=2), late=2, num_steps=3)


@BOTH_PASSES
@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (2, 4), (4, 1)], ids=["2x2", "2x4", "4x1"])
def test_rails_carry_the_rows_that_there_are(make_cluster: Any, mode: Mode, nodes: int, gpus: int) -> None:
    """One for each route to another team, and nothing besides but gradients, where there are some."""
    num_ranks = nodes * gpus
    shape = Shape(num_ranks, num_local_experts=4, num_topk=8, hidden=2048, max_tokens=32, no_route=0)
    problem = make_problem(replace(shape, tokens=(32,) * num_ranks), seed=1)
    cluster = make_cluster(num_ranks, nodes=nodes, checker=False)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            return links_of(cluster, rank, partial(mine.combine, handle))

    team, place = np.divmod(np.arange(num_ranks), gpus)
    is_remote = team[:, None] != team[None, :]
    is_rail = is_remote & (place[:, None] == place[None, :])
    team_of_expert = np.arange(problem.num_experts) // problem.num_local_experts // gpus
    hits = sum(
        len({expert for expert in row if team_of_expert[expert] != team[rank]})
        for rank, table in enumerate(problem.topk_idx)
        for row in table.tolist()
    )
    hit_bytes = problem.hidden * problem.dtype.itemsize + 4 * mode.backward
    links = cluster.run(main)[0]
    assert links[is_rail]["gin_put_bytes"].sum() == hits * hit_bytes
    assert not links[is_remote & ~is_rail]["bytes"].any()
    assert not links[is_remote]["stores"].any()


# With rank masks: the rows of a lost rank are missing, and no other bit changes.

MASKED = pytest.mark.parametrize(
    "mode", [replace(EXACT, budget=64), replace(BACKWARD, budget=64, alignment=4)], ids=str
)
NODE_OR_RANK = pytest.mark.parametrize("whole", [True, False], ids=["node", "rank"])
LOST_NODE = 1
STEPS = 120_000  # about what a whole run takes


@TEAMS
@MASKED
def test_masks_change_nothing_while_all_answer(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    run_while_all_answer(*in_teams(make_cluster, nodes, gpus, mode, seed))


@TEAMS
@MASKED
@NODE_OR_RANK
def test_survivors_go_on_without_the_dead(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, seed: int
) -> None:
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    run_with_the_dead(*in_teams(make_cluster, nodes, gpus, mode, seed), lost, LOST_NODE if whole else None)


@TEAMS
@MASKED
@NODE_OR_RANK
def test_who_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lost = ranks_of(LOST_NODE, gpus) if whole else (int(random.integers(0, nodes * gpus)),)
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, draw_moments(lost, STEPS, random), seed)


@TEAMS
@MASKED
@pytest.mark.parametrize("call", ["dispatch", "combine"])
def test_a_node_that_dies_between_calls(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, call: str, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_deaths_before(*case, ranks_of(LOST_NODE, gpus), call, seed)


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (3, 2), (2, 4)], ids=["2x2", "3x2", "2x4"])
@pytest.mark.parametrize("num_topk", [3, 6])
def test_what_a_dead_rank_has_is_missing_in_all_teams(
    make_cluster: Any, nodes: int, gpus: int, num_topk: int, seed: int
) -> None:
    """Its rail peers' tokens apart, the rows of its team are added as ever, and its gradients are 0."""
    mode, shape = replace(BACKWARD, budget=128), {"num_topk": num_topk, "num_local_experts": 4}
    case = in_teams(make_cluster, nodes, gpus, mode, seed, **shape)
    run_with_gradients_lost(*case, seed % (nodes * gpus), seed)


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=lambda dtype: dtype.name)
def test_what_stands_for_a_lost_row_changes_no_bit(make_cluster: Any, dtype: Any, seed: int) -> None:
    shape = {"num_topk": 6, "num_local_experts": 4, "tokens": (6, 5, 6, 4), "dtype": dtype}
    run_with_minus_zeros(*in_teams(make_cluster, 2, 2, replace(EXACT, budget=128), seed, **shape), seed % 4)


@TEAMS
def test_a_node_that_is_counted_and_sends_no_list(
    make_cluster: Any, nodes: int, gpus: int, seed: int
) -> None:
    mode = replace(BACKWARD, budget=64)
    run_without_lists(*in_teams(make_cluster, nodes, gpus, mode, seed), LOST_NODE)


@TEAMS
@MASKED
def test_who_masks_a_rail_peer_alone_loses_its_team(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    cut = seed % (nodes * gpus)
    rank_masks = (cut + gpus) % (nodes * gpus)
    run_with_a_cut_rail(*in_teams(make_cluster, nodes, gpus, mode, seed), rank_masks, cut)


@TEAMS
@NODE_OR_RANK
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
def test_who_comes_back_takes_part_again(
    make_cluster: Any, nodes: int, gpus: int, whole: bool, call: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lost = ranks_of(LOST_NODE, gpus) if whole else (int(random.integers(0, nodes * gpus)),)
    moment = int(random.integers(0, STEPS // 2))
    print("ranks", lost, "stop after", moment, "steps")
    case = in_teams(make_cluster, nodes, gpus, replace(EXACT, budget=64), seed, checker=False)
    run_with_some_that_come_back(*case, lost, moment, call, 1 + seed % 2)


@TEAMS
@NODE_OR_RANK
def test_who_comes_late_disturbs_nobody(
    make_cluster: Any, nodes: int, gpus: int, whole: bool, seed: int
) -> None:
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    case = in_teams(make_cluster, nodes, gpus, replace(EXACT, budget=64), seed)
    run_with_late_ranks(*case, lost, "combine")

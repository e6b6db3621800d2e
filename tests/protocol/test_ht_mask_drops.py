# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks in which rows are dropped: what is kept follows from who is counted.

Each team counts for itself, and tells others what follows for theirs (``ht/update_remote.cuh``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ht import EM, FLAT, Mode, make_problem
from ht_mask_runs import (
    draw_moments,
    run_while_all_answer,
    run_with_a_replayed_graph,
    run_with_late_ranks,
    run_with_masks_of_the_caller,
    run_with_some_that_come_back,
)
from ht_mask_teams import (
    UPDATE_STEPS,
    check_after_a_death,
    die_while_awaited,
    in_teams,
    most_steps,
    run_until_the_lost_are_gone,
    run_with_a_cut_rail,
    run_with_deaths_before,
    run_with_the_dead,
    run_with_unequal_masks,
    shape_of,
)
from masks import ranks_of

pytestmark = pytest.mark.sim_only
BUDGET = 8  # of some 14 rows and 18 slots
MODES = [
    Mode(FLAT, BUDGET, drop=True),
    Mode(FLAT, BUDGET, drop=True, windows=True),
    Mode(FLAT, BUDGET, drop=True, backward=True),
    Mode(EM, BUDGET, drop=True, alignment=4),
    Mode(EM, BUDGET, drop=True, windows=True),
    Mode(EM, BUDGET, drop=True, backward=True),
    Mode(EM, BUDGET, drop=True, exact=True),
]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=str)
FEW_MODES = pytest.mark.parametrize("mode", [MODES[0], MODES[3], MODES[5]], ids=str)
BOTH_LAYOUTS = pytest.mark.parametrize("mode", [MODES[0], MODES[3]], ids=str)
DIVISIONS = pytest.mark.parametrize(
    ("nodes", "gpus"), [(1, 4), (2, 2), (4, 1), (3, 2)], ids=["1x4", "2x2", "4x1", "3x2"]
)
FEW_DIVISIONS = pytest.mark.parametrize(("nodes", "gpus"), [(1, 4), (2, 2)], ids=["1x4", "2x2"])
SEVERAL_NODES = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (4, 1), (3, 2)], ids=["2x2", "4x1", "3x2"]
)


@DIVISIONS
@EVERY_MODE
def test_masks_change_nothing_while_all_answer(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    run_while_all_answer(*in_teams(make_cluster, nodes, gpus, mode, seed))


@pytest.mark.parametrize("nodes", [1, 2, 3])
@BOTH_LAYOUTS
def test_updates_of_several_blocks(make_cluster: Any, nodes: int, mode: Mode, seed: int) -> None:
    mode = replace(mode, budget=152)
    case = in_teams(make_cluster, nodes, 2, mode, seed, num_topk=2, hidden=8, max_tokens=140)
    run_while_all_answer(*case)


@DIVISIONS
@EVERY_MODE
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_the_dead(*case, (seed % (nodes * gpus),), None)


@SEVERAL_NODES
@FEW_MODES
def test_survivors_go_on_without_a_dead_node(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    run_with_the_dead(*in_teams(make_cluster, nodes, gpus, mode, seed), ranks_of(1, gpus), None)


@DIVISIONS
@EVERY_MODE
def test_a_rank_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lost = (int(random.integers(0, nodes * gpus)),)
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, draw_moments(lost, most_steps(seed + 1), random), seed)


@SEVERAL_NODES
@FEW_MODES
@pytest.mark.parametrize("wait", ["remote_tallies", "remote_records"])
def test_a_rank_that_is_counted_and_tells_no_more(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, wait: str, seed: int
) -> None:
    """Neither how its team counts, or that alone."""
    num_ranks, lost = nodes * gpus, gpus
    case = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus), lost
    found = die_while_awaited(
        lambda cluster_seed: make_cluster(num_ranks, cluster_seed, nodes=nodes, checker=False),
        *case,
        wait,
        seed,
    )
    check_after_a_death(*case, found)


@SEVERAL_NODES
@BOTH_LAYOUTS
def test_a_node_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    moments = draw_moments(ranks_of(1, gpus), most_steps(seed + 1), np.random.default_rng(seed))
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, moments, seed)


@FEW_DIVISIONS
@FEW_MODES
@pytest.mark.parametrize("call", ["dispatch", "combine"])
def test_a_rank_that_dies_between_calls(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, call: str, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_deaths_before(*case, ranks_of(1, gpus) if nodes > 1 else (1,), call, seed)


@FEW_DIVISIONS
@BOTH_LAYOUTS
@pytest.mark.parametrize("call", ["update", "dispatch"])
def test_who_comes_back_takes_part_again(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, call: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lost, moment = (int(random.integers(0, nodes * gpus)),), int(random.integers(0, 2 * UPDATE_STEPS))
    print("ranks", lost, "stop after", moment, "steps")
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_with_some_that_come_back(*case, lost, moment, call, 1 + seed % 2)


@DIVISIONS
@BOTH_LAYOUTS
def test_who_comes_late_disturbs_nobody(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_late_ranks(*case, (seed % (nodes * gpus),), "update")


@SEVERAL_NODES
@FEW_MODES
def test_who_masks_a_rail_peer_alone_loses_its_team(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    rank_masks = seed % (nodes * gpus)
    cut = (rank_masks + gpus) % (nodes * gpus)
    run_with_a_cut_rail(*in_teams(make_cluster, nodes, gpus, mode, seed), rank_masks, cut)


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 4), (2, 2), (3, 2)], ids=["1x4", "2x2", "3x2"])
@FEW_MODES
def test_who_masks_a_rank_of_its_team_alone_agrees_with_the_others(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    lost = seed % (nodes * gpus)
    rank_masks = lost // gpus * gpus + (lost + 1) % gpus
    run_with_unequal_masks(*in_teams(make_cluster, nodes, gpus, mode, seed), rank_masks, lost)


@SEVERAL_NODES
@BOTH_LAYOUTS
def test_the_caller_may_mask_a_node(make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int) -> None:
    run_with_masks_of_the_caller(*in_teams(make_cluster, nodes, gpus, mode, seed), ranks_of(1, gpus))


@BOTH_LAYOUTS
def test_a_replayed_graph_goes_on_without_a_node(make_cluster: Any, mode: Mode, seed: int) -> None:
    run_with_a_replayed_graph(*in_teams(make_cluster, 2, 2, mode, seed), ranks_of(1, 2))

# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks across LSA teams: ranks and whole nodes that die, or stand still and come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, check, make_problem
from ht_mask_teams import (
    ranks_of,
    run_until_the_lost_are_gone,
    run_with_late_ranks,
    run_with_some_that_come_back,
    run_with_the_dead,
    shape_of,
)
from ht_masks import masked_config
from masks import mask_of

pytestmark = pytest.mark.sim_only
MODES = [
    Mode(FLAT, budget=64, windows=True),
    Mode(FLAT, budget=64, backward=True),
    Mode(EM, budget=64, alignment=4),
    Mode(EM, budget=64, windows=True),
    Mode(EM, budget=64, backward=True),
]
EVERY_MODE = pytest.mark.parametrize("mode", [Mode(FLAT), *MODES], ids=str)
EVERY_BUDGET = pytest.mark.parametrize("mode", MODES, ids=str)
BOTH_LAYOUTS = pytest.mark.parametrize("mode", [MODES[0], MODES[2]], ids=str)
DIVISIONS = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (4, 1), (3, 2), (2, 4)], ids=["2x2", "4x1", "3x2", "2x4"]
)
LOST_NODE = 1
UPDATE_STEPS, STEPS = 40_000, 200_000  # about what an update and a whole run take


@DIVISIONS
@EVERY_MODE
def test_masks_change_nothing_while_all_answer(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=10**9)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            for _ in range(2):
                mine.run(handle)
            found = mine.results()
            assert mask_of(rank, group) == [1] * rank.num_ranks
            assert group.async_error() is None
            return found

    check(problem, mode, make_cluster(nodes * gpus, seed, nodes=nodes).run(main))


@DIVISIONS
@EVERY_MODE
@pytest.mark.parametrize("loses", [True, False], ids=["lost", "silent"])
def test_survivors_go_on_without_a_dead_node(
    make_cluster: Any, loses: bool, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    run_with_the_dead(cluster, problem, mode, ranks_of(LOST_NODE, gpus), LOST_NODE if loses else None)


@DIVISIONS
@EVERY_MODE
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    """Its rail peers lose its team, and nobody else does."""
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    run_with_the_dead(cluster, problem, mode, (seed % (nodes * gpus),), None)


# That the last stores of a dead GPU have landed when its places are used again follows from the time-out, of
# which the race checker knows nothing.


@DIVISIONS
@EVERY_BUDGET
def test_a_node_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    lost, random = ranks_of(LOST_NODE, gpus), np.random.default_rng(seed)
    most = STEPS if seed % 2 else UPDATE_STEPS
    moments = {rank: int(random.integers(1, most)) for rank in lost}
    print("die after", moments, "steps")
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes, checker=False)
    run_until_the_lost_are_gone(cluster, problem, mode, lost, moments, seed)


@DIVISIONS
@EVERY_BUDGET
def test_a_rank_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    random = np.random.default_rng(seed)
    lost = int(random.integers(0, nodes * gpus))
    moment = int(random.integers(1, STEPS if seed % 2 else UPDATE_STEPS))
    print("rank", lost, "dies after", moment, "steps")
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes, checker=False)
    run_until_the_lost_are_gone(cluster, problem, mode, (lost,), {lost: moment}, seed)


@DIVISIONS
@BOTH_LAYOUTS
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
@pytest.mark.parametrize("whole", [True, False], ids=["node", "rank"])
def test_who_comes_back_takes_part_again(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, call: str, seed: int
) -> None:
    """It stops before a call or in the middle of it, and goes on when the others have done without it."""
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    random = np.random.default_rng(seed)
    lost = ranks_of(LOST_NODE, gpus) if whole else (int(random.integers(0, nodes * gpus)),)
    moment = int(random.integers(0, 2 * UPDATE_STEPS))
    print("ranks", lost, "stop after", moment, "steps")
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes, checker=False)
    found = run_with_some_that_come_back(cluster, problem, mode, lost, moment, call, 1 + seed % 2)
    check(problem, mode, found)


@DIVISIONS
@BOTH_LAYOUTS
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
@pytest.mark.parametrize("whole", [True, False], ids=["node", "rank"])
def test_who_comes_late_disturbs_nobody(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, call: str, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    run_with_late_ranks(make_cluster(nodes * gpus, seed, nodes=nodes), problem, mode, lost, call)

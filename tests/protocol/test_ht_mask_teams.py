# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks across LSA teams: ranks and nodes that die, or come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8_oracle
import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode
from ht_mask_runs import (
    draw_moments,
    masked_config,
    masked_exchanges,
    run_while_all_answer,
    run_with_a_replayed_graph,
    run_with_late_ranks,
    run_with_masks_of_the_caller,
    run_with_scales,
    run_with_some_that_come_back,
    step_without,
    write_results_of_experts,
)
from ht_mask_teams import (
    UPDATE_STEPS,
    in_teams,
    most_steps,
    run_until_the_lost_are_gone,
    run_with_a_cut_rail,
    run_with_deaths_before,
    run_with_gradients_lost,
    run_with_the_dead,
    run_with_unequal_masks,
    run_without_lists,
)
from ht_recipes import Rows, quantized_rows, quantized_sums
from ht_survivors import what_is_left
from masks import meet, ranks_of

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
TEAMS_OF_SEVERAL = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (3, 2), (2, 4)], ids=["2x2", "3x2", "2x4"]
)
THREE_OR_FOUR_NODES = pytest.mark.parametrize(("nodes", "gpus"), [(4, 1), (3, 2)], ids=["4x1", "3x2"])
NODE_OR_RANK = pytest.mark.parametrize("whole", [True, False], ids=["node", "rank"])
EVERY_CALL = pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
LOST_NODE = 1


@DIVISIONS
@EVERY_MODE
def test_masks_change_nothing_while_all_answer(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    run_while_all_answer(*in_teams(make_cluster, nodes, gpus, mode, seed))


@DIVISIONS
@EVERY_MODE
@pytest.mark.parametrize("loses", [True, False], ids=["lost", "silent"])
def test_survivors_go_on_without_a_dead_node(
    make_cluster: Any, loses: bool, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_the_dead(*case, ranks_of(LOST_NODE, gpus), LOST_NODE if loses else None)


@DIVISIONS
@EVERY_MODE
def test_survivors_go_on_without_a_dead_rank(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    """Its rail peers lose its team, and nobody else does."""
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_the_dead(*case, (seed % (nodes * gpus),), None)


# That the last stores of a dead GPU have landed when its places are used again follows from the time-out, of
# which the race checker knows nothing.


@DIVISIONS
@EVERY_BUDGET
def test_a_node_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    lost, random = ranks_of(LOST_NODE, gpus), np.random.default_rng(seed)
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, draw_moments(lost, most_steps(seed), random), seed)


@DIVISIONS
@EVERY_BUDGET
def test_a_rank_that_dies_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lost = (int(random.integers(0, nodes * gpus)),)
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, draw_moments(lost, most_steps(seed), random), seed)


@THREE_OR_FOUR_NODES
@BOTH_LAYOUTS
def test_two_nodes_that_die_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    lost, random = ranks_of(LOST_NODE, gpus) + ranks_of(nodes - 1, gpus), np.random.default_rng(seed)
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_until_the_lost_are_gone(*case, draw_moments(lost, most_steps(seed), random), seed)


@DIVISIONS
@BOTH_LAYOUTS
@EVERY_CALL
@NODE_OR_RANK
def test_who_comes_back_takes_part_again(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, call: str, seed: int
) -> None:
    """It stops before a call or in the middle of it, and goes on when the others have done without it."""
    random = np.random.default_rng(seed)
    lost = ranks_of(LOST_NODE, gpus) if whole else (int(random.integers(0, nodes * gpus)),)
    moment = int(random.integers(0, 2 * UPDATE_STEPS))
    print("ranks", lost, "stop after", moment, "steps")
    case = in_teams(make_cluster, nodes, gpus, mode, seed, checker=False)
    run_with_some_that_come_back(*case, lost, moment, call, 1 + seed % 2)


@DIVISIONS
@BOTH_LAYOUTS
@EVERY_CALL
@NODE_OR_RANK
def test_who_comes_late_disturbs_nobody(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, call: str, seed: int
) -> None:
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    run_with_late_ranks(*in_teams(make_cluster, nodes, gpus, mode, seed), lost, call)


@DIVISIONS
@EVERY_BUDGET
@pytest.mark.parametrize("call", ["dispatch", "combine"])
def test_a_node_that_dies_between_calls(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, call: str, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_deaths_before(*case, ranks_of(LOST_NODE, gpus), call, seed)


@TEAMS_OF_SEVERAL
@pytest.mark.parametrize("mode", [MODES[1], MODES[4]], ids=str)
def test_gradients_of_a_dead_rank_are_zero_in_all_teams(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_gradients_lost(*case, seed % (nodes * gpus), seed)


@DIVISIONS
def test_a_node_that_is_counted_and_sends_no_list(
    make_cluster: Any, nodes: int, gpus: int, seed: int
) -> None:
    run_without_lists(*in_teams(make_cluster, nodes, gpus, MODES[4], seed), LOST_NODE)


@TEAMS_OF_SEVERAL
@EVERY_BUDGET
def test_who_masks_a_rank_of_its_team_alone_agrees_with_the_others(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    lost = seed % (nodes * gpus)
    rank_masks = lost // gpus * gpus + (lost + 1) % gpus
    run_with_unequal_masks(*in_teams(make_cluster, nodes, gpus, mode, seed), rank_masks, lost)


@DIVISIONS
@EVERY_BUDGET
def test_who_masks_a_rail_peer_alone_loses_its_team(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    rank_masks = seed % (nodes * gpus)
    cut = (rank_masks + gpus) % (nodes * gpus)
    run_with_a_cut_rail(*in_teams(make_cluster, nodes, gpus, mode, seed), rank_masks, cut)


@DIVISIONS
@BOTH_LAYOUTS
def test_the_caller_may_mask_a_node(make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int) -> None:
    case = in_teams(make_cluster, nodes, gpus, mode, seed)
    run_with_masks_of_the_caller(*case, ranks_of(LOST_NODE, gpus))


@pytest.mark.parametrize("nodes", [2, 3])
@BOTH_LAYOUTS
def test_a_node_that_dies_in_an_update_of_several_blocks(
    make_cluster: Any, nodes: int, mode: Mode, seed: int
) -> None:
    mode = replace(mode, budget=nodes * 2 * 140)
    case = in_teams(make_cluster, nodes, 2, mode, seed, checker=False, num_topk=2, hidden=8, max_tokens=140)
    moments = draw_moments(ranks_of(LOST_NODE, 2), 5 * UPDATE_STEPS, np.random.default_rng(seed))
    run_until_the_lost_are_gone(*case, moments, seed)


@BOTH_LAYOUTS
def test_a_replayed_graph_goes_on_without_a_node(make_cluster: Any, mode: Mode, seed: int) -> None:
    run_with_a_replayed_graph(*in_teams(make_cluster, 2, 2, mode, seed), ranks_of(LOST_NODE, 2))


@DIVISIONS
@pytest.mark.parametrize("rows", [Rows(64, 8), quantized_rows(256)], ids=str)
def test_rows_with_scales(make_cluster: Any, rows: Rows, nodes: int, gpus: int, seed: int) -> None:
    case = in_teams(make_cluster, nodes, gpus, MODES[2 * (seed % 2)], seed)
    run_with_scales(*case, ranks_of(LOST_NODE, gpus), rows)


@DIVISIONS
@BOTH_LAYOUTS
@NODE_OR_RANK
def test_quantized_sums(make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, seed: int) -> None:
    cluster, problem, mode = in_teams(make_cluster, nodes, gpus, mode, seed, hidden=1152)
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    left = what_is_left(problem, mode, lost)

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (_, handle, mine):
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            write_results_of_experts(mine, left)
            for _ in range(2):
                mine.update(handle)
                mine.dispatch(handle)
                mine.combine(handle, recipe=ep.CombineQuantizationRecipe.FP8)
            return mine.results()["combined"]

    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            fp8_oracle.assert_sums(quantized_sums(left, rank, mode), found, f"rank {rank}: combined")


@TEAMS_OF_SEVERAL
def test_nobody_waits_for_the_lost_to_leave(make_cluster: Any, nodes: int, gpus: int, seed: int) -> None:
    """Nor do those that have not dealt with them, once there was an update."""
    cluster, problem, mode = in_teams(make_cluster, nodes, gpus, MODES[0], seed)
    lost = seed % (nodes * gpus)

    def main(rank: Any) -> None:
        group = ep.Group(rank.comm, masked_config(problem, mode))
        mine = Exchange(rank, problem, mode)
        handle = mine.make_handle(group)
        meet(rank)
        if rank.rank == lost:
            cluster.sim.silence(lost)
        else:
            step_without(mine, handle, (lost,))
            rank.synchronize()
            handle.close()
            group.close()
        rank.barrier()  # after a collective call in vain, the cluster would say so
        rank.array(np.zeros(1, np.int32))

    cluster.run(main)

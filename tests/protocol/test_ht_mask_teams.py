# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks across LSA teams: ranks and nodes that die, or come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8_oracle
import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, check, expected, make_problem
from ht_mask_teams import (
    TIMEOUT_NS,
    check_left,
    ranks_of,
    run_until_the_lost_are_gone,
    run_with_a_cut_rail,
    run_with_deaths_before,
    run_with_gradients_lost,
    run_with_late_ranks,
    run_with_some_that_come_back,
    run_with_the_dead,
    run_with_unequal_masks,
    run_without_lists,
    shape_of,
    step_without,
    what_is_left,
)
from ht_masks import assert_same, masked_config, write_results_of_experts
from ht_recipes import Rows, ScaledExchange, config_for, quantized_rows, quantized_sums
from ht_recipes import expected as expected_scaled
from ll import POISON
from masks import mask_of, mask_without

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


@pytest.mark.parametrize(("nodes", "gpus"), [(4, 1), (3, 2)], ids=["4x1", "3x2"])
@BOTH_LAYOUTS
def test_two_nodes_that_die_at_any_moment(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    random = np.random.default_rng(seed)
    lost = (*ranks_of(LOST_NODE, gpus), *ranks_of(nodes - 1, gpus))
    most = STEPS if seed % 2 else UPDATE_STEPS
    moments = {rank: int(random.integers(1, most)) for rank in lost}
    print("die after", moments, "steps")
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes, checker=False)
    run_until_the_lost_are_gone(cluster, problem, mode, lost, moments, seed)


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


@DIVISIONS
@EVERY_BUDGET
@pytest.mark.parametrize("call", ["dispatch", "combine"])
def test_a_node_that_dies_between_calls(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, call: str, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    run_with_deaths_before(cluster, problem, mode, ranks_of(LOST_NODE, gpus), call, seed)


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (3, 2), (2, 4)], ids=["2x2", "3x2", "2x4"])
@pytest.mark.parametrize("mode", [MODES[1], MODES[4]], ids=str)
def test_gradients_of_a_dead_rank_are_zero_in_all_teams(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    run_with_gradients_lost(cluster, problem, mode, seed % (nodes * gpus), seed)


@DIVISIONS
def test_a_node_that_is_counted_and_sends_no_list(
    make_cluster: Any, nodes: int, gpus: int, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(MODES[4], team_size=gpus)
    run_without_lists(make_cluster(nodes * gpus, seed, nodes=nodes), problem, mode, LOST_NODE)


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (3, 2), (2, 4)], ids=["2x2", "3x2", "2x4"])
@EVERY_BUDGET
def test_who_masks_a_rank_of_its_team_alone_agrees_with_the_others(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    lost = seed % (nodes * gpus)
    rank_masks = lost // gpus * gpus + (lost + 1) % gpus
    run_with_unequal_masks(make_cluster(nodes * gpus, seed, nodes=nodes), problem, mode, rank_masks, lost)


@DIVISIONS
@EVERY_BUDGET
def test_who_masks_a_rail_peer_alone_loses_its_team(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    rank_masks = seed % (nodes * gpus)
    cut = (rank_masks + gpus) % (nodes * gpus)
    run_with_a_cut_rail(make_cluster(nodes * gpus, seed, nodes=nodes), problem, mode, rank_masks, cut)


@DIVISIONS
@BOTH_LAYOUTS
def test_the_caller_may_mask_a_node(make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int) -> None:
    """Nobody waits then: with a time-out as long as the test may take, all goes on at once."""
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(mode, team_size=gpus)
    lost = ranks_of(LOST_NODE, gpus)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=10**15)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            found = None
            if rank.rank not in lost:
                group.update_mask(mask_without(rank.num_ranks, *lost))
                for _ in range(2):
                    step_without(mine, handle, problem, gpus, lost)
                found = mine.results()
            rank.barrier()
            group.update_mask([1] * rank.num_ranks)
            return found

    check_left(problem, mode, make_cluster(nodes * gpus, seed, nodes=nodes).run(main), lost)


@pytest.mark.parametrize("nodes", [2, 3])
@BOTH_LAYOUTS
def test_a_node_that_dies_in_an_update_of_several_blocks(
    make_cluster: Any, nodes: int, mode: Mode, seed: int
) -> None:
    shape = replace(shape_of(nodes, 2), num_topk=2, hidden=8, max_tokens=140)
    problem, mode = make_problem(shape, seed), replace(mode, team_size=2, budget=shape.num_ranks * 140)
    lost, random = ranks_of(LOST_NODE, 2), np.random.default_rng(seed)
    moments = {rank: int(random.integers(1, 5 * UPDATE_STEPS)) for rank in lost}
    print("die after", moments, "steps")
    cluster = make_cluster(shape.num_ranks, seed, nodes=nodes, checker=False)
    run_until_the_lost_are_gone(cluster, problem, mode, lost, moments, seed)


@BOTH_LAYOUTS
def test_a_replayed_graph_goes_on_without_a_node(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem, mode, lost = (
        make_problem(shape_of(2, 2), seed),
        replace(mode, team_size=2),
        ranks_of(LOST_NODE, 2),
    )

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            with rank.capture() as graph:
                mine.update(handle, graph.stream)
                mine.run(handle, graph.stream)
            graph.launch()
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            write_results_of_experts(mine, what_is_left(problem, 2, lost))
            for _ in range(2):
                graph.launch()
            graph.stream.synchronize()
            return mine.results()

    cluster = make_cluster(4, seed, nodes=2)
    left = what_is_left(problem, 2, lost)
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            wanted = expected(left, rank, mode)  # behind its rows are those of the first replay
            assert_same(found, wanted, f"rank {rank}", wanted["received"][:, 0] != POISON)


@DIVISIONS
@pytest.mark.parametrize("rows", [Rows(64, 8), quantized_rows(256)], ids=str)
def test_rows_with_scales(make_cluster: Any, rows: Rows, nodes: int, gpus: int, seed: int) -> None:
    problem = make_problem(shape_of(nodes, gpus), seed)
    mode, lost = replace(MODES[2 * (seed % 2)], team_size=gpus), ranks_of(LOST_NODE, gpus)

    def main(rank: Any) -> Any:
        changes = {"enable_mask": True, "timeout_ns": TIMEOUT_NS}
        with ep.Group(rank.comm, config_for(problem, mode, [rows], **changes)) as group:
            mine = ScaledExchange(rank, problem, mode, rows)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            step_without(mine, handle, problem, gpus, lost)
            return mine.results()

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    left = what_is_left(problem, gpus, lost)
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            assert_same(found, expected_scaled(left, rank, mode, rows), f"rank {rank}")


@DIVISIONS
@BOTH_LAYOUTS
@pytest.mark.parametrize("whole", [True, False], ids=["node", "rank"])
def test_quantized_sums(make_cluster: Any, nodes: int, gpus: int, mode: Mode, whole: bool, seed: int) -> None:
    problem = make_problem(replace(shape_of(nodes, gpus), hidden=1152), seed)
    mode = replace(mode, team_size=gpus)
    lost = ranks_of(LOST_NODE, gpus) if whole else (seed % (nodes * gpus),)
    left = what_is_left(problem, gpus, lost)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            write_results_of_experts(mine, left)
            for _ in range(2):
                mine.update(handle)
                mine.dispatch(handle)
                mine.combine(handle, recipe=ep.CombineQuantizationRecipe.FP8)
            return mine.results()["combined"]

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            fp8_oracle.assert_sums(quantized_sums(left, rank, mode), found, f"rank {rank}: combined")


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (3, 2), (2, 4)], ids=["2x2", "3x2", "2x4"])
def test_nobody_waits_for_the_lost_to_leave(make_cluster: Any, nodes: int, gpus: int, seed: int) -> None:
    """Nor do those that have not dealt with them, once there was an update."""
    problem, mode = make_problem(shape_of(nodes, gpus), seed), replace(MODES[0], team_size=gpus)
    lost = seed % (nodes * gpus)

    def main(rank: Any) -> None:
        group = ep.Group(rank.comm, masked_config(problem, mode))
        mine = Exchange(rank, problem, mode)
        handle = mine.make_handle(group)
        rank.synchronize()
        rank.barrier()
        if rank.rank == lost:
            cluster.sim.silence(lost)
        else:
            step_without(mine, handle, problem, gpus, (lost,))
            rank.synchronize()
            handle.close()
            group.close()
        rank.barrier()  # after a collective call in vain, the cluster would say so
        rank.array(np.zeros(1, np.int32))

    cluster = make_cluster(nodes * gpus, seed, nodes=nodes)
    cluster.run(main)

# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with ``enable_mask`` go on without ranks that do not answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8_oracle
import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, make_problem
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
from ht_masks import (
    BLOCKS,
    FOUR,
    LOST,
    SHAPE,
    check_dying_in_quantized_combine,
    find_moment,
    run_until_the_lost_are_gone,
    run_with_unequal_masks,
)
from ht_recipes import Rows, quantized_rows, quantized_sums
from ht_survivors import check_left
from masks import each, mask_of, mask_without, meet, without

SIM_ONLY = pytest.mark.sim_only
UPDATE_STEPS, STEPS = 20_000, 200_000  # about what an update and a whole run take
MODES = [
    Mode(FLAT),
    Mode(FLAT, budget=64, windows=True),
    Mode(FLAT, budget=64, backward=True),
    Mode(EM, budget=64, alignment=4),
    Mode(EM, budget=64, windows=True),
]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=str)
EVERY_BUDGET = pytest.mark.parametrize("mode", [replace(mode, budget=64) for mode in MODES], ids=str)
BOTH_LAYOUTS = pytest.mark.parametrize("mode", [MODES[1], MODES[3]], ids=str)
DROPPING = [replace(mode, budget=8, drop=True) for mode in MODES]
EVERY_CALL = pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
FP8 = ep.CombineQuantizationRecipe.FP8
WIDE = replace(SHAPE, hidden=1152)


@SIM_ONLY
@EVERY_MODE
def test_survivors_go_on_without_a_dead_rank(make_cluster: Any, mode: Mode, seed: int) -> None:
    problems = [make_problem(SHAPE, seed + i) for i in range(2)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problems[0], mode)) as group:
            exchanges = [Exchange(rank, problem, mode) for problem in problems]
            handles = [mine.make_handle(group) for mine in exchanges]
            assert mask_of(rank, group) == [1] * SHAPE.num_ranks
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for mine, handle in zip(exchanges, handles, strict=True):
                step_without(mine, handle, (LOST,))
            results = [mine.results() for mine in exchanges]
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            assert isinstance(group.async_error(), ep.RemoteError)
            group.clear_error()
            assert group.async_error() is None
            return results

    cluster = make_cluster(SHAPE.num_ranks, seed)
    found = cluster.run(main)
    for i, problem in enumerate(problems):
        check_left(problem, mode, each(found, i), (LOST,))


@EVERY_MODE
def test_masks_change_nothing_while_all_answer(make_cluster: Any, mode: Mode, seed: int) -> None:
    run_while_all_answer(make_cluster(SHAPE.num_ranks, seed), make_problem(SHAPE, seed), mode)


@pytest.mark.parametrize("mode", [*MODES, *DROPPING], ids=str)
def test_masks_change_nothing_for_four_ranks(make_cluster: Any, mode: Mode, seed: int) -> None:
    """On GPUs that form several teams these tell each other what they have counted, too."""
    run_while_all_answer(make_cluster(FOUR.num_ranks, seed), make_problem(FOUR, seed), mode)


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_an_update(make_cluster: Any, mode: Mode, seed: int) -> None:
    moments = draw_moments((LOST,), UPDATE_STEPS, np.random.default_rng(seed))
    cluster = make_cluster(SHAPE.num_ranks, seed)
    run_until_the_lost_are_gone(cluster, make_problem(SHAPE, seed), mode, moments, seed)


# That the last stores of a dead GPU have landed when its places are used again follows from the time-out, of
# which the race checker knows nothing.


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_an_update_of_several_blocks(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Every other seed lets it die up to the end of an update, which may be in the middle of the dispatch."""
    surely_in_update = seed % 2 == 1
    most = (2 if surely_in_update else 5) * UPDATE_STEPS
    moments = draw_moments((LOST,), most, np.random.default_rng(seed))
    cluster = make_cluster(BLOCKS.num_ranks, seed, checker=surely_in_update)
    mode = replace(mode, budget=4 * BLOCKS.max_tokens)
    run_until_the_lost_are_gone(cluster, make_problem(BLOCKS, seed), mode, moments, seed)


@SIM_ONLY
@EVERY_BUDGET
def test_a_rank_that_dies_at_any_moment(make_cluster: Any, mode: Mode, seed: int) -> None:
    moments = draw_moments((LOST,), STEPS, np.random.default_rng(seed))
    cluster = make_cluster(SHAPE.num_ranks, seed, checker=False)
    run_until_the_lost_are_gone(cluster, make_problem(SHAPE, seed), mode, moments, seed)


@SIM_ONLY
@BOTH_LAYOUTS
def test_two_ranks_that_die_at_any_moment(make_cluster: Any, mode: Mode, seed: int) -> None:
    moments = draw_moments((1, 3), STEPS if seed % 2 else UPDATE_STEPS, np.random.default_rng(seed))
    cluster = make_cluster(FOUR.num_ranks, seed, checker=False)
    run_until_the_lost_are_gone(cluster, make_problem(FOUR, seed), mode, moments, seed)


@SIM_ONLY
@BOTH_LAYOUTS
@EVERY_CALL
def test_a_rank_that_comes_back_takes_part_again(make_cluster: Any, mode: Mode, call: str, seed: int) -> None:
    """It stops before a call or in the middle of it, and goes on when the others have done without it."""
    moment = int(np.random.default_rng(seed).integers(0, 2 * UPDATE_STEPS))
    print("stops after", moment, "steps")
    cluster = make_cluster(SHAPE.num_ranks, seed, checker=call == "update")
    case = cluster, make_problem(SHAPE, seed), mode
    run_with_some_that_come_back(*case, (LOST,), moment, call, 1 + seed % 2)


@SIM_ONLY
@EVERY_BUDGET
@EVERY_CALL
def test_a_rank_that_comes_late_disturbs_nobody(make_cluster: Any, mode: Mode, call: str, seed: int) -> None:
    run_with_late_ranks(make_cluster(SHAPE.num_ranks, seed), make_problem(SHAPE, seed), mode, (LOST,), call)


@SIM_ONLY
@pytest.mark.parametrize("shape", [SHAPE, BLOCKS], ids=["one block", "several"])
def test_a_rank_dies_when_it_is_just_counted(make_cluster: Any, shape: Shape, seed: int) -> None:
    """Then some have its counts, and others look for them."""
    mode, problem = replace(MODES[1], budget=4 * shape.max_tokens), make_problem(shape, seed)
    moment = find_moment(lambda: make_cluster(shape.num_ranks, seed, checker=False), problem, mode)
    for later in (0, 5, 20, 80):
        cluster = make_cluster(shape.num_ranks, seed)
        run_until_the_lost_are_gone(cluster, problem, mode, {LOST: moment + later}, seed)


@SIM_ONLY
def test_who_does_not_come_to_clean_stays_masked(make_cluster: Any, seed: int) -> None:
    mode, problem = MODES[1], make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            meet(rank)
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            mine.update(handle)
            with pytest.raises(ep.RemoteError) as failure:
                group.clean_mask()
            assert failure.value.ranks == (LOST,)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            step_without(mine, handle, (LOST,))
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    check_left(problem, mode, cluster.run(main), (LOST,))


@BOTH_LAYOUTS
def test_the_caller_may_mask_ranks(make_cluster: Any, mode: Mode, seed: int) -> None:
    cluster = make_cluster(SHAPE.num_ranks, seed)
    run_with_masks_of_the_caller(cluster, make_problem(SHAPE, seed), mode, (LOST,))


@SIM_ONLY
@EVERY_BUDGET
def test_who_masks_a_rank_alone_agrees_with_the_others(make_cluster: Any, mode: Mode, seed: int) -> None:
    run_with_unequal_masks(make_cluster(FOUR.num_ranks, seed), make_problem(FOUR, seed), mode, seed)


@SIM_ONLY
def test_a_replayed_graph_goes_on_too(make_cluster: Any, seed: int) -> None:
    cluster = make_cluster(SHAPE.num_ranks, seed)
    run_with_a_replayed_graph(cluster, make_problem(SHAPE, seed), MODES[3], (LOST,))


@SIM_ONLY
@pytest.mark.parametrize("rows", [Rows(64, 8), quantized_rows(256)], ids=str)
def test_rows_with_scales(make_cluster: Any, rows: Rows, seed: int) -> None:
    mode, cluster = replace(MODES[seed % 2], budget=64), make_cluster(SHAPE.num_ranks, seed)
    run_with_scales(cluster, make_problem(SHAPE, seed), mode, (LOST,), rows)


@SIM_ONLY
@BOTH_LAYOUTS
def test_combine_quantizes_what_survivors_send(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(WIDE, seed)
    left = without(problem, LOST)

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            mine.dispatch(handle)
            mine.combine(handle, recipe=FP8)
            whole = mine.results()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            write_results_of_experts(mine, left)
            mine.update(handle)
            mine.dispatch(handle)
            mine.combine(handle, recipe=FP8)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            return whole, mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    for rank, found in enumerate(cluster.run(main)):
        if found is None:
            continue
        for case, results in zip((problem, left), found, strict=True):
            sums = quantized_sums(case, rank, mode)
            fp8_oracle.assert_sums(sums, results["combined"], f"rank {rank}: combined")


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_a_quantized_combine(make_cluster: Any, mode: Mode, seed: int) -> None:
    moments = draw_moments((LOST,), STEPS // 4, np.random.default_rng(seed))
    cluster = make_cluster(SHAPE.num_ranks, seed, checker=False)
    check_dying_in_quantized_combine(cluster, make_problem(WIDE, seed), mode, moments[LOST])

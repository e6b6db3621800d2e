# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with ``enable_mask`` go on without ranks that do not answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fp8_oracle
import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, check, expected, make_problem
from ht_masks import (
    BLOCKS,
    FOUR,
    LOST,
    SHAPE,
    TIMEOUT_NS,
    assert_same,
    check_dying_in_quantized_combine,
    check_survivors,
    find_moment,
    masked_config,
    run_until_the_lost_are_gone,
    run_with_a_late_rank,
    run_with_unequal_masks,
    run_without,
    write_results_of_experts,
)
from ht_recipes import Rows, ScaledExchange, config_for, quantized_rows, quantized_sums
from ht_recipes import expected as expected_scaled
from masks import mask_of, mask_without, without

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
            for mine, handle, problem in zip(exchanges, handles, problems, strict=True):
                run_without(mine, handle, problem)
            results = [mine.results() for mine in exchanges]
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            assert isinstance(group.async_error(), ep.RemoteError)
            group.clear_error()
            assert group.async_error() is None
            return results

    cluster = make_cluster(SHAPE.num_ranks, seed)
    found = cluster.run(main)
    for i, problem in enumerate(problems):
        check_survivors(problem, mode, [results and results[i] for results in found])


@EVERY_MODE
def test_masks_change_nothing_while_all_answer(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=10**9)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            for _ in range(2):
                mine.run(handle)
            found = mine.results()
            assert mask_of(rank, group) == [1] * SHAPE.num_ranks
            assert group.async_error() is None
            return found

    check(problem, mode, make_cluster(SHAPE.num_ranks, seed).run(main))


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_an_update(make_cluster: Any, mode: Mode, seed: int) -> None:
    moment = int(np.random.default_rng(seed).integers(1, UPDATE_STEPS))
    print("dies after", moment, "steps")
    cluster = make_cluster(SHAPE.num_ranks, seed)
    run_until_the_lost_are_gone(cluster, make_problem(SHAPE, seed), mode, (LOST,), [moment], seed)


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_an_update_of_several_blocks(make_cluster: Any, mode: Mode, seed: int) -> None:
    moment = int(np.random.default_rng(seed).integers(1, 5 * UPDATE_STEPS))
    print("dies after", moment, "steps")
    cluster = make_cluster(BLOCKS.num_ranks, seed)
    mode = replace(mode, budget=4 * BLOCKS.max_tokens)
    run_until_the_lost_are_gone(cluster, make_problem(BLOCKS, seed), mode, (LOST,), [moment], seed)


# That the last stores of a dead GPU have landed when its places are used again follows from the time-out, of
# which the race checker knows nothing.


@SIM_ONLY
@EVERY_BUDGET
def test_a_rank_that_dies_at_any_moment(make_cluster: Any, mode: Mode, seed: int) -> None:
    moment = int(np.random.default_rng(seed).integers(1, STEPS))
    print("dies after", moment, "steps")
    cluster = make_cluster(SHAPE.num_ranks, seed, checker=False)
    run_until_the_lost_are_gone(cluster, make_problem(SHAPE, seed), mode, (LOST,), [moment], seed)


@SIM_ONLY
@BOTH_LAYOUTS
def test_two_ranks_that_die_at_any_moment(make_cluster: Any, mode: Mode, seed: int) -> None:
    most = STEPS if seed % 2 else UPDATE_STEPS
    moments = [int(moment) for moment in np.random.default_rng(seed).integers(1, most, 2)]
    print("die after", moments, "steps")
    cluster = make_cluster(FOUR.num_ranks, seed, checker=False)
    run_until_the_lost_are_gone(cluster, make_problem(FOUR, seed), mode, (1, 3), moments, seed)


@SIM_ONLY
@BOTH_LAYOUTS
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
def test_a_rank_that_comes_back_takes_part_again(make_cluster: Any, mode: Mode, call: str, seed: int) -> None:
    """It stops before a call or in the middle of it, and goes on when the others have done without it."""
    problem = make_problem(SHAPE, seed)
    moment = int(np.random.default_rng(seed).integers(0, 2 * UPDATE_STEPS))
    print("stops after", moment, "steps")

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine, left, whole = (Exchange(rank, problem, mode) for _ in range(3))
            handle = mine.make_handle(group)
            if call == "combine":
                mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST, after=moment)
                getattr(mine, call)(handle)
                rank.barrier()
                cluster.sim.wake(LOST)
                rank.synchronize()
            else:
                getattr(mine, call)(handle)
                for _ in range(1 + seed % 2):
                    run_without(left, handle, problem)
                found = left.results()
                assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
                assert_same(found, expected(without(problem, LOST), rank.rank, mode), f"rank {rank.rank}")
                rank.barrier()
            rank.barrier()
            group.clean_mask()
            assert mask_of(rank, group) == [1] * SHAPE.num_ranks
            for _ in range(2):
                whole.update(handle)
                whole.run(handle)
            return whole.results()

    cluster = make_cluster(SHAPE.num_ranks, seed, checker=call == "update")
    check(problem, mode, cluster.run(main))


@SIM_ONLY
@EVERY_BUDGET
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
def test_a_rank_that_comes_late_disturbs_nobody(make_cluster: Any, mode: Mode, call: str, seed: int) -> None:
    run_with_a_late_rank(make_cluster(SHAPE.num_ranks, seed), make_problem(SHAPE, seed), mode, call)


@SIM_ONLY
@pytest.mark.parametrize("shape", [SHAPE, BLOCKS], ids=["one block", "several"])
def test_a_rank_dies_when_it_is_just_counted(make_cluster: Any, shape: Shape, seed: int) -> None:
    """Then some have its counts, and others look for them."""
    mode, problem = replace(MODES[1], budget=4 * shape.max_tokens), make_problem(shape, seed)
    moment = find_moment(lambda: make_cluster(shape.num_ranks, seed, checker=False), problem, mode)
    for later in (0, 5, 20, 80):
        cluster = make_cluster(shape.num_ranks, seed)
        run_until_the_lost_are_gone(cluster, problem, mode, (LOST,), [moment + later], seed)


@SIM_ONLY
def test_who_does_not_come_to_clean_stays_masked(make_cluster: Any, seed: int) -> None:
    mode, problem = MODES[1], make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            mine.update(handle)
            with pytest.raises(ep.RemoteError) as failure:
                group.clean_mask()
            assert failure.value.ranks == (LOST,)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            run_without(mine, handle, problem)
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    check_survivors(problem, mode, cluster.run(main))


@BOTH_LAYOUTS
def test_the_caller_may_mask_ranks(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Nobody waits then: with a time-out as long as the test may take, all goes on at once."""
    problem = make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=10**15)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            found = None
            if rank.rank != LOST:
                group.update_mask(mask_without(SHAPE.num_ranks, LOST))
                for _ in range(2):
                    run_without(mine, handle, problem)
                found = mine.results()
            rank.barrier()
            group.update_mask([1] * rank.num_ranks)
            return found

    check_survivors(problem, mode, make_cluster(SHAPE.num_ranks, seed).run(main))


@SIM_ONLY
@EVERY_BUDGET
def test_who_masks_a_rank_alone_agrees_with_the_others(make_cluster: Any, mode: Mode, seed: int) -> None:
    run_with_unequal_masks(make_cluster(FOUR.num_ranks, seed), make_problem(FOUR, seed), mode, seed)


@SIM_ONLY
def test_a_replayed_graph_goes_on_too(make_cluster: Any, seed: int) -> None:
    mode, problem = MODES[3], make_problem(SHAPE, seed)

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
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            write_results_of_experts(mine, without(problem, LOST))
            for _ in range(2):
                graph.launch()
            graph.stream.synchronize()
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    left = without(problem, LOST)
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            wanted = expected(left, rank, mode)
            del (
                wanted["received"],
                wanted["received_weights"],
            )  # behind its rows are those of the first replay
            assert_same(found, wanted, f"rank {rank}")


@SIM_ONLY
@pytest.mark.parametrize("rows", [Rows(64, 8), quantized_rows(256)], ids=str)
def test_rows_with_scales(make_cluster: Any, rows: Rows, seed: int) -> None:
    mode, problem = replace(MODES[seed % 2], budget=64), make_problem(SHAPE, seed)

    def main(rank: Any) -> Any:
        changes = {"enable_mask": True, "timeout_ns": TIMEOUT_NS}
        with ep.Group(rank.comm, config_for(problem, mode, [rows], **changes)) as group:
            mine = ScaledExchange(rank, problem, mode, rows)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            run_without(mine, handle, problem)
            return mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    left = without(problem, LOST)
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            assert_same(found, expected_scaled(left, rank, mode, rows), f"rank {rank}")


FP8 = ep.CombineQuantizationRecipe.FP8
WIDE = replace(SHAPE, hidden=1152)


@SIM_ONLY
@BOTH_LAYOUTS
def test_combine_quantizes_what_survivors_send(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(WIDE, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            mine.combine(handle, recipe=FP8)
            whole = mine.results()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            write_results_of_experts(mine, without(problem, LOST))
            mine.update(handle)
            mine.dispatch(handle)
            mine.combine(handle, recipe=FP8)
            assert mask_of(rank, group) == mask_without(SHAPE.num_ranks, LOST)
            return whole, mine.results()

    cluster = make_cluster(SHAPE.num_ranks, seed)
    cases = (problem, without(problem, LOST))
    for rank, found in enumerate(cluster.run(main)):
        if found is None:
            continue
        for case, results in zip(cases, found, strict=True):
            sums = quantized_sums(case, rank, mode)
            fp8_oracle.assert_sums(sums, results["combined"], f"rank {rank}: combined")


@SIM_ONLY
@BOTH_LAYOUTS
def test_a_rank_that_dies_in_a_quantized_combine(make_cluster: Any, mode: Mode, seed: int) -> None:
    moment = int(np.random.default_rng(seed).integers(1, STEPS // 4))
    print("dies after", moment, "steps")
    cluster = make_cluster(SHAPE.num_ranks, seed, checker=False)
    check_dying_in_quantized_combine(cluster, make_problem(WIDE, seed), mode, moment)

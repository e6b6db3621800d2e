# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks: runs in which ranks are lost, in one LSA team as across several."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import nccl_ep as ep
import numpy as np
from ht import Exchange, Mode, check, expected, expert_rows, gradients, group_config
from ht_recipes import Rows, ScaledExchange, config_for
from ht_recipes import expected as expected_scaled
from ht_survivors import assert_same, check_left, check_mask, results_of_experts, what_is_left
from masks import each, mask_of, mask_without, meet
from oracle import Problem

TIMEOUT_NS = 1_000_000  # of simulated time


def masked_config(problem: Problem, mode: Mode, **changes: Any) -> ep.GroupConfig:
    return group_config(problem, mode, enable_mask=True, **{"timeout_ns": TIMEOUT_NS, **changes})


@contextmanager
def masked_exchanges(
    rank: Any, problem: Problem, mode: Mode, count: int = 1, **changes: Any
) -> Iterator[tuple[Any, ...]]:
    """A group with masks, a handle, and so many exchanges. The first has given the handle its routing."""
    with ep.Group(rank.comm, masked_config(problem, mode, **changes)) as group:
        exchanges = [Exchange(rank, problem, mode) for _ in range(count)]
        yield group, exchanges[0].make_handle(group), *exchanges


def write_results_of_experts(mine: Exchange, problem: Problem) -> None:
    """What experts give back, and gradients, where a problem has its rows."""
    me, mode = mine.rank.rank, mine.mode
    for array, values in (
        (mine.expert_rows, expert_rows(problem, me, mode)),
        (mine.gradients, gradients(problem, me, mode)),
    ):
        whole = np.full(array.shape, np.nan, array.dtype)
        whole[: len(values)] = values
        mine.rank.write(array, whole)


def write_results_everywhere(mine: Exchange, seed: int) -> None:
    """Any results of experts, wherever rows may lie, so that they do not depend on what is lost."""
    values = results_of_experts(mine.problem, mine.rank.rank, mine.mode, seed)
    for array, given in zip((mine.expert_rows, mine.gradients), values, strict=True):
        mine.rank.write(array, given)


def step_without(mine: Exchange, handle: ep.Handle, lost: Collection[int]) -> None:
    """A whole step, when it is known who is lost."""
    write_results_of_experts(mine, what_is_left(mine.problem, mine.mode, lost))
    mine.update(handle)
    mine.run(handle)


def draw_moments(lost: Collection[int], most: int, random: np.random.Generator) -> dict[int, int]:
    """After how many steps each of these ranks dies."""
    moments = {rank: int(random.integers(1, most)) for rank in lost}
    print("die after", moments, "steps")
    return moments


def run_while_all_answer(cluster: Any, problem: Problem, mode: Mode) -> None:
    """Nobody is lost, and masks change nothing."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, timeout_ns=10**9) as (group, handle, mine):
            for _ in range(2):
                mine.run(handle)
            found = mine.results()
            assert mask_of(rank, group) == [1] * rank.num_ranks
            assert group.async_error() is None
            return found

    check(problem, mode, cluster.run(main))


def run_with_deaths(
    cluster: Any, problem: Problem, mode: Mode, moments: dict[int, int], seed: int
) -> list[Any]:
    """Ranks die at these moments of a step or of the next dispatch and combine; then there are others.

    Returns what each survivor has of the first step; it is checked what it has of the others.
    """
    lost = moments.keys()

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            first, *last = (Exchange(rank, problem, mode) for _ in range(3))
            write_results_everywhere(first, seed)
            handle = first.init_handle(group)
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moments[rank.rank])
            first.update(handle)
            for _ in range(2):
                first.run(handle)
            if rank.rank in lost:
                return None
            for mine in last:
                step_without(mine, handle, lost)
            check_mask(first, group, lost)
            return [mine.results() for mine in (first, *last)]

    found = cluster.run(main)
    for i in (1, 2):
        check_left(problem, mode, each(found, i), lost)
    return each(found, 0)


def run_with_late_ranks(cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], call: str) -> None:
    """Some begin with a call when the others have long gone on, and are in the middle of others."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                getattr(mine, call)(handle)
                mine.update(handle)
                mine.run(handle)
                rank.barrier()
                cluster.sim.wake(rank.rank)
                rank.synchronize()
                check_mask(mine, group, set(range(rank.num_ranks)) - set(lost))
                return None
            getattr(mine, call)(handle)
            step_without(mine, handle, lost)
            meet(rank)
            found = []
            for _ in range(3):
                step_without(mine, handle, lost)
                found.append(mine.results())
            check_mask(mine, group, lost)
            return found

    found = cluster.run(main)
    for i in range(3):
        check_left(problem, mode, each(found, i), lost, again=True)


def run_with_some_that_come_back(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], moment: int, call: str, count: int
) -> None:
    """Ranks stand still from some moment of a call on, and end it when others have made more steps."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, 3) as (group, handle, mine, left, whole):
            if call == "combine":
                mine.dispatch(handle)
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moment)
                getattr(mine, call)(handle)
                rank.barrier()
                cluster.sim.wake(rank.rank)
                if call == "update":  # what it goes on with, alone
                    mine.run(handle)
                rank.synchronize()
            else:
                getattr(mine, call)(handle)
                for _ in range(count):
                    step_without(left, handle, lost)
                found = left.results()
                check_mask(mine, group, lost)
                wanted = expected(what_is_left(problem, mode, lost), rank.rank, mode)
                assert_same(found, wanted, f"rank {rank.rank}")
                rank.barrier()
            rank.barrier()
            group.clean_mask()
            assert mask_of(rank, group) == [1] * rank.num_ranks
            for _ in range(2):
                whole.update(handle)
                whole.run(handle)
            return whole.results()

    check(problem, mode, cluster.run(main))


def run_with_masks_of_the_caller(cluster: Any, problem: Problem, mode: Mode, lost: Collection[int]) -> None:
    """Nobody waits then: with a time-out as long as the test may take, all goes on at once."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, timeout_ns=10**15) as (group, handle, mine):
            meet(rank)
            found = None
            if rank.rank not in lost:
                group.update_mask(mask_without(rank.num_ranks, *lost))
                for _ in range(2):
                    step_without(mine, handle, lost)
                found = mine.results()
            rank.barrier()
            group.update_mask([1] * rank.num_ranks)
            meet(rank)
            return found

    check_left(problem, mode, cluster.run(main), lost)
    if hasattr(cluster, "sim"):
        assert not cluster.sim.report  # nobody has waited in vain for others to leave


def run_with_a_replayed_graph(cluster: Any, problem: Problem, mode: Mode, lost: Collection[int]) -> None:
    """Ranks die between two replays of a step."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (_, handle, mine):
            rank.synchronize()
            with rank.capture() as graph:
                mine.update(handle, graph.stream)
                mine.run(handle, graph.stream)
            graph.launch()
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            write_results_of_experts(mine, what_is_left(problem, mode, lost))
            for _ in range(2):
                graph.launch()
            graph.stream.synchronize()
            return mine.results()

    check_left(problem, mode, cluster.run(main), lost, again=True)


def run_with_scales(cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], rows: Rows) -> None:
    """Ranks die before a step whose rows have scales."""

    def main(rank: Any) -> Any:
        config = config_for(problem, mode, [rows], enable_mask=True, timeout_ns=TIMEOUT_NS)
        with ep.Group(rank.comm, config) as group:
            mine = ScaledExchange(rank, problem, mode, rows)
            handle = mine.make_handle(group)
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            step_without(mine, handle, lost)
            return mine.results()

    left = what_is_left(problem, mode, lost)
    for rank, found in enumerate(cluster.run(main)):
        if rank not in lost:
            assert_same(found, expected_scaled(left, rank, mode, rows), f"rank {rank}")

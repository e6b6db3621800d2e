# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks in one LSA team: runs in which ranks are lost.

Where a rank dies in the middle, its tokens count on all survivors or on none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import fp8_oracle
import nccl_ep as ep
import numpy as np
from ht import EM, Exchange, Mode, Shape, expected, expected_counters
from ht_mask_runs import masked_config, masked_exchanges, run_with_deaths, step_without
from ht_recipes import quantized_sums
from ht_survivors import (
    Results,
    assert_same,
    check_left,
    check_mask,
    combined,
    is_from,
    received_of,
    results_of_all_experts,
    subsets,
)
from masks import mask_without, without, without_experts
from oracle import Array, Problem

LOST = 1
SHAPE = Shape(num_ranks=3, num_topk=3, hidden=16, max_tokens=6, tokens=(6, 5, 4))
FOUR = replace(SHAPE, num_ranks=4, tokens=(4, 5, 6, 3))
BLOCKS = Shape(num_ranks=3, num_topk=2, hidden=8, max_tokens=140, tokens=(140, 130, 70))  # of an update


def find_counted(
    problem: Problem, mode: Mode, results: list[Any], lost: Collection[int]
) -> list[tuple[int, ...]]:
    """Whose tokens of those that died all survivors may have counted, as far as counters tell."""
    agreed = subsets(lost)
    for rank, found in enumerate(results):
        if rank in lost:
            continue
        wanted = {
            counted: expected_counters(without(problem, *set(lost) - set(counted)), rank, mode)
            for counted in agreed
        }
        agreed = [
            counted
            for counted in agreed
            if all(np.array_equal(found[name], values) for name, values in wanted[counted].items())
        ]
        assert agreed, f"rank {rank} counts {found['expert_counters']}"
    return agreed


def check_in_the_middle(
    problem: Problem, mode: Mode, results: list[Any], lost: Collection[int], seed: int
) -> None:
    """Rows of survivors are right and where all say. Of the sums parts of the lost ranks may be missing."""
    given = results_of_all_experts(problem, mode, seed)
    failures = []
    for counted in find_counted(problem, mode, results, lost):
        case = without(problem, *set(lost) - set(counted))
        try:
            for rank, found in enumerate(results):
                if rank not in lost:
                    check_rows_as_counted(case, rank, mode, found, counted)
                    check_sums_as_counted(case, rank, mode, found, given, lost)
            return
        except AssertionError as failure:
            failures.append(failure)
    raise failures[0]


def check_rows_as_counted(
    case: Problem, rank: int, mode: Mode, found: Results, counted: Collection[int]
) -> None:
    """What dispatch brings to a survivor, if these are counted of those that died, as in ``case``."""
    received = received_of(expected(case, rank, mode))
    of_lost = is_from(case, rank, mode, counted, len(received["received"]))
    assert_same(found, received, f"rank {rank}", ~of_lost)
    if mode.layout is not EM and not mode.backward:
        ids, known = found["received_idx"][: len(of_lost)], received["received_idx"]
        assert ((ids == known).all(axis=1) | (ids == -1).all(axis=1))[of_lost].all(), f"rank {rank}: ids"


def check_sums_as_counted(
    case: Problem,
    rank: int,
    mode: Mode,
    found: Results,
    given: tuple[list[Array], list[Array]],
    lost: Collection[int],
) -> None:
    """What combine makes of what experts have given, with the parts of those that died or without."""
    possible = [combined(without_experts(case, *gone), rank, mode, *given) for gone in subsets(lost)]
    for i, name in enumerate(["combined"] + (["combined_weights"] if mode.backward else [])):
        mine = found[name] + found[name].dtype.type(0)
        fits = [(mine == some[i] + some[i].dtype.type(0)).all(axis=1) for some in possible]
        assert np.any(fits, axis=0).all(), f"rank {rank}: {name}"


def run_until_the_lost_are_gone(
    cluster: Any, problem: Problem, mode: Mode, moments: dict[int, int], seed: int
) -> None:
    """Ranks die at these moments, in a step or in the next dispatch and combine; then there are others."""
    results = run_with_deaths(cluster, problem, mode, moments, seed)
    check_in_the_middle(problem, mode, results, moments.keys(), seed)


def find_moment(make_cluster: Callable[[], Any], problem: Problem, mode: Mode) -> int:
    """After how many steps of its first update a rank that dies is just counted by the others."""

    def is_counted(moment: int) -> bool:
        def main(rank: Any) -> Any:
            with ep.Group(rank.comm, masked_config(problem, mode)) as group:
                mine = Exchange(rank, problem, mode)
                handle = group.init_handle(mode.layout, problem.num_topk)
                rank.barrier()
                if rank.rank == LOST:
                    cluster.sim.silence(LOST, after=moment)
                    mine.update(handle)
                    return None
                mine.update(handle)
                found = mine.counters()
                group.update_mask(mask_without(rank.num_ranks, LOST))
                return found

        cluster = make_cluster()
        return (LOST,) in find_counted(problem, mode, cluster.run(main), (LOST,))

    low, high = 0, 40_000 if problem.max_tokens < BLOCKS.max_tokens else 160_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_counted(middle) else (middle, high)
    return high


def run_with_unequal_masks(cluster: Any, problem: Problem, mode: Mode, seed: int) -> None:
    """One rank masks another one that is well. All others do without that, too, and it learns of it."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            rank.synchronize()
            if rank.rank == 0:
                group.update_mask(mask_without(rank.num_ranks, LOST))
            rank.barrier()
            cluster.sim.delay(seed % rank.num_ranks, 100)
            step_without(mine, handle, (LOST,))
            rank.synchronize()
            everybody_else = set(range(rank.num_ranks)) - {LOST}
            check_mask(mine, group, everybody_else if rank.rank == LOST else (LOST,))
            return mine.results()

    check_left(problem, mode, cluster.run(main), (LOST,))


def check_dying_in_quantized_combine(cluster: Any, problem: Problem, mode: Mode, moment: int) -> None:
    """A rank dies in it. Every token is summed up with what that rank had for it, or without.

    What another combine has sent before is of no account.
    """
    recipe = ep.CombineQuantizationRecipe.FP8

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (_, handle, mine):
            mine.dispatch(handle)
            values = rank.read(mine.expert_rows)
            rank.write(mine.expert_rows, -values)
            mine.combine(handle, recipe=recipe)
            rank.write(mine.expert_rows, values)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST, after=moment)
            mine.combine(handle, recipe=recipe)
            return None if rank.rank == LOST else mine.results()["combined"]

    for rank, found in enumerate(cluster.run(main)):
        if found is None:
            continue
        possible = [quantized_sums(problem, rank, mode, gone) for gone in ((), (LOST,))]
        for token in range(len(found)):
            one = slice(token, token + 1)
            try:
                fp8_oracle.assert_sums(possible[0][one], found[one])
            except AssertionError:
                fp8_oracle.assert_sums(possible[1][one], found[one], f"rank {rank}, token {token}")

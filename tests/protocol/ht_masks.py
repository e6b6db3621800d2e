# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks: what survivors of lost ranks find, and runs in which ranks are lost.

It is what the oracle says of a problem in which the lost ranks neither have tokens nor host experts. Where a
rank dies in the middle, its tokens count on all survivors or on none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import fp8_oracle
import ht_oracle as oracle
import nccl_ep as ep
import numpy as np
from ht import EM, Exchange, Mode, Shape, expected, expected_counters, expert_rows, gradients, group_config
from ht_recipes import quantized_sums
from ll import POISON, assert_same_bits
from masks import mask_of, mask_without, without, without_experts
from oracle import Array, Problem

TIMEOUT_NS = 1_000_000  # of simulated time
LOST = 1
SHAPE = Shape(num_ranks=3, num_topk=3, hidden=16, max_tokens=6, tokens=(6, 5, 4))
FOUR = replace(SHAPE, num_ranks=4, tokens=(4, 5, 6, 3))
BLOCKS = Shape(num_ranks=3, num_topk=2, hidden=8, max_tokens=140, tokens=(140, 130, 70))  # of an update

Results = dict[str, Array]


def masked_config(problem: Problem, mode: Mode, **changes: Any) -> ep.GroupConfig:
    return group_config(problem, mode, enable_mask=True, **{"timeout_ns": TIMEOUT_NS, **changes})


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


def assert_same(found: Results, wanted: Results, what: str, rows: Array | None = None) -> None:
    """To the bit. Outputs may be longer than they need be; ``rows``: those that count."""
    for name, values in wanted.items():
        mine = found[name][: len(values)]
        if rows is not None and name.startswith("received"):
            mine, values = mine[rows], values[rows]
        if name.startswith("combined"):  # -0 and 0 are both fine where nothing is added
            mine, values = mine + mine.dtype.type(0), values + values.dtype.type(0)
        assert_same_bits(mine, values, f"{what}: {name}")


def check_survivors(
    problem: Problem, mode: Mode, results: list[Any], lost: Collection[int] = (LOST,)
) -> None:
    """Survivors have what a problem without the lost ranks gives."""
    left = without(problem, *lost)
    for rank, found in enumerate(results):
        if rank not in lost:
            assert_same(found, expected(left, rank, mode), f"rank {rank}")


def run_without(mine: Exchange, handle: ep.Handle, problem: Problem, lost: Collection[int] = (LOST,)) -> None:
    """A whole step, when it is known who is lost."""
    write_results_of_experts(mine, without(problem, *lost))
    mine.update(handle)
    mine.run(handle)


def subsets(ranks: Collection[int]) -> list[tuple[int, ...]]:
    """All of them, the largest first."""
    return list(chain.from_iterable(combinations(ranks, n) for n in range(len(ranks), -1, -1)))


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


def is_from(problem: Problem, rank: int, mode: Mode, sources: Collection[int], num_rows: int) -> Array:
    """Which rows of dispatch's output are for tokens of some ranks."""
    which = np.zeros(num_rows, bool)
    if mode.layout is EM:
        for (_, source, _), slot in oracle.slots_of(problem, rank, mode.alignment).items():
            which[slot] = source in sources
    else:
        for i, row in enumerate(oracle.rows_of(problem, rank)):
            which[i] = row.source in sources
    return which


def combined(problem: Problem, rank: int, mode: Mode, rows: list[Array], weights: list[Array]) -> list[Array]:
    """What combine makes of any rows and gradients that experts may give back."""
    if mode.layout is EM:
        return [
            oracle.combine_expert_major(problem, rank, rows, mode.alignment),
            oracle.combine_weights_expert_major(problem, rank, weights, mode.alignment),
        ]
    return [oracle.combine_flat(problem, rank, rows), oracle.combine_weights_flat(problem, rank, weights)]


def results_of_experts(problem: Problem, rank: int, mode: Mode, seed: int) -> tuple[Array, Array]:
    """Rows that experts give back, and gradients, wherever rows may lie."""
    random = np.random.default_rng([seed, rank])
    shapes = expert_rows(problem, rank, mode), gradients(problem, rank, mode)
    rows, weights = (random.standard_normal(x.shape, np.float32).astype(x.dtype) for x in shapes)
    return rows, weights


def give_results_of_experts(mine: Exchange, seed: int) -> None:
    """Lets experts give back rows that do not depend on what is lost."""
    values = results_of_experts(mine.problem, mine.rank.rank, mine.mode, seed)
    for array, given in zip((mine.expert_rows, mine.gradients), values, strict=True):
        mine.rank.write(array, given)


def check_in_the_middle(
    problem: Problem, mode: Mode, results: list[Any], lost: Collection[int], seed: int
) -> None:
    """Rows of survivors are right and where all say. Of the sums parts of the lost ranks may be missing."""
    failures = []
    for counted in find_counted(problem, mode, results, lost):
        try:
            check_as_counted(problem, mode, results, lost, counted, seed)
            return
        except AssertionError as failure:
            failures.append(failure)
    raise failures[0]


def check_as_counted(
    problem: Problem,
    mode: Mode,
    results: list[Any],
    lost: Collection[int],
    counted: Collection[int],
    seed: int,
) -> None:
    """The same, if these are counted of those that died."""
    case = without(problem, *set(lost) - set(counted))
    given = [results_of_experts(problem, rank, mode, seed) for rank in range(problem.num_ranks)]
    rows, weights = [mine[0] for mine in given], [mine[1] for mine in given]
    for rank, found in enumerate(results):
        if rank in lost:
            continue
        wanted = expected(case, rank, mode)
        received = {name: values for name, values in wanted.items() if name.startswith("received")}
        of_lost = is_from(case, rank, mode, counted, len(received["received"]))
        assert_same(found, received, f"rank {rank}", ~of_lost)
        if mode.layout is not EM and not mode.backward:
            ids, known = found["received_idx"][: len(of_lost)], received["received_idx"]
            assert ((ids == known).all(axis=1) | (ids == -1).all(axis=1))[of_lost].all(), f"rank {rank}: ids"
        possible = [
            combined(without_experts(case, *gone), rank, mode, rows, weights) for gone in subsets(lost)
        ]
        for i, name in enumerate(["combined"] + (["combined_weights"] if mode.backward else [])):
            mine = found[name] + found[name].dtype.type(0)
            fits = [(mine == some[i] + some[i].dtype.type(0)).all(axis=1) for some in possible]
            assert np.any(fits, axis=0).all(), f"rank {rank}: {name}"


def run_until_the_lost_are_gone(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], moments: list[int], seed: int
) -> None:
    """Ranks die at these moments, in a step or in the next dispatch and combine; then there is another."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine, last = Exchange(rank, problem, mode), Exchange(rank, problem, mode)
            give_results_of_experts(mine, seed)
            handle = group.init_handle(
                mode.layout,
                problem.num_topk,
                config=ep.HandleConfig(mode.alignment if mode.alignment > 1 else 0),
            )
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moments[lost.index(rank.rank)])
            mine.update(handle)
            for _ in range(2):
                mine.run(handle)
            if rank.rank in lost:
                return None
            found = mine.results()
            # By now they are dead for sure, and once more all is as if they had never been.
            run_without(last, handle, problem, lost)
            assert mask_of(rank, group) == mask_without(problem.num_ranks, *lost)
            return found, last.results()

    found = cluster.run(main)
    check_in_the_middle(problem, mode, [results and results[0] for results in found], lost, seed)
    check_survivors(problem, mode, [results and results[1] for results in found], lost)


def run_with_a_late_rank(cluster: Any, problem: Problem, mode: Mode, call: str) -> None:
    """One begins with a call when the others have long gone on, and are in the middle of others."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                getattr(mine, call)(handle)
                mine.update(handle)
                mine.run(handle)
                rank.barrier()
                cluster.sim.wake(LOST)
                rank.synchronize()
                assert mask_of(rank, group) == [int(other == LOST) for other in range(rank.num_ranks)]
                return None
            getattr(mine, call)(handle)
            run_without(mine, handle, problem)
            rank.synchronize()
            rank.barrier()
            found = []
            for _ in range(3):
                run_without(mine, handle, problem)
                found.append(mine.results())
            return found

    results = cluster.run(main)
    for i in range(3):
        left = without(problem, LOST)
        for rank, found in enumerate(results):
            if found is not None:
                wanted = expected(left, rank, mode)
                assert_same(found[i], wanted, f"rank {rank}", wanted["received"][:, 0] != POISON)


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
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            if rank.rank == 0:
                group.update_mask(mask_without(rank.num_ranks, LOST))
            rank.barrier()
            cluster.sim.delay(seed % rank.num_ranks, 100)
            run_without(mine, handle, problem)
            rank.synchronize()
            alone = [int(other == LOST) for other in range(rank.num_ranks)]
            wanted = alone if rank.rank == LOST else mask_without(rank.num_ranks, LOST)
            assert mask_of(rank, group) == wanted
            return mine.results()

    check_survivors(problem, mode, cluster.run(main))


def check_dying_in_quantized_combine(cluster: Any, problem: Problem, mode: Mode, moment: int) -> None:
    """A rank dies in it. Every token is summed up with what that rank had for it, or without.

    What another combine has sent before is of no account.
    """
    recipe = ep.CombineQuantizationRecipe.FP8

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
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

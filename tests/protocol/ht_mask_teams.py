# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks across LSA teams: runs in which ranks are lost."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
from ht import FLAT, Exchange, Mode, Shape, expected, make_problem
from ht_mask_runs import (
    TIMEOUT_NS,
    masked_exchanges,
    run_with_deaths,
    step_without,
    write_results_everywhere,
    write_results_of_experts,
)
from ht_survivors import (
    Results,
    assert_same,
    check_left,
    check_mask,
    check_masks_no_others,
    combined,
    is_from,
    rail_peer,
    received_of,
    results_of_all_experts,
    subsets,
    what_is_left,
)
from masks import each, mask_of, mask_without, meet, ranks_of, without_experts, without_tokens
from oracle import Array, Problem
from wait_sites import at_some_moment, ends_in

UPDATE_WAITS = (
    "peer_start",
    "source_counts",
    "remote_counts",
    "remote_tallies",
    "remote_records",
)  # in order
UPDATE_STEPS, STEPS = 50_000, 200_000  # about what an update and a whole run take
LEAP = 2.1  # the simulated clock may be ahead as far as it has come since something happened


def most_steps(seed: int) -> int:
    """Before which step ranks die: at any moment of a run, or in an update."""
    return STEPS if seed % 2 else UPDATE_STEPS


def shape_of(nodes: int, gpus: int, **changes: Any) -> Shape:
    shape = Shape(num_ranks=nodes * gpus, num_topk=3, hidden=16, max_tokens=6, no_route=0)
    return replace(shape, **changes)


def in_teams(
    make_cluster: Callable[..., Any],
    nodes: int,
    gpus: int,
    mode: Mode,
    seed: int,
    *,
    checker: bool | None = None,
    **changes: Any,
) -> tuple[Any, Problem, Mode]:
    """A cluster whose nodes are teams, a problem for it, and the mode there. ``changes``: of the shape."""
    cluster = make_cluster(nodes * gpus, seed, nodes=nodes, checker=checker)
    return cluster, make_problem(shape_of(nodes, gpus, **changes), seed), replace(mode, team_size=gpus)


def check_counted(problem: Problem, mode: Mode, results: list[Any], lost: Collection[int]) -> None:
    """Ranks have died: the survivors of a team count the same, and know where all others' rows are."""
    gpus = mode.team_size
    for first in range(0, problem.num_ranks, gpus):
        team = [rank for rank in range(first, first + gpus) if rank not in lost]
        doubtful = [
            rank for rank in range(problem.num_ranks) if rank in lost or rail_peer(rank, first, gpus) in lost
        ]
        failures = []
        for counted in subsets(doubtful):
            try:
                for rank in team:
                    check_as_counted(problem, rank, mode, results[rank], doubtful, counted)
                break
            except AssertionError as failure:
                failures.append(failure)
        else:
            raise AssertionError(f"team of rank {first} agrees on nothing: {failures}")


def check_as_counted(
    problem: Problem, rank: int, mode: Mode, found: Any, doubtful: list[int], counted: Collection[int]
) -> None:
    """The same of one rank, if its team counts these of those that it may not have heard of."""
    case = without_tokens(problem, *set(doubtful) - set(counted))
    wanted = expected(case, rank, mode)
    assert_same(found, {"total": wanted["total"]}, f"rank {rank}")
    known, hits = found["expert_counters"], wanted["expert_counters"]
    # Flat and thinned, hits are counted of the rows whose records have come.
    assert (known == hits).all() or (mode.drop and mode.layout is FLAT and (known <= hits).all()), (
        f"rank {rank} counts {known}, expected {hits}"
    )
    received = received_of(wanted)
    known = ~is_from(case, rank, mode, doubtful, len(received["received"]))
    assert_same(found, received, f"rank {rank}", known)


def run_with_the_dead(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], node: int | None
) -> None:
    """Ranks are lost between two steps; all of a node, whose links are then lost, too, or some."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, 4) as (group, handle, before, *exchanges):
            before.run(handle)
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank) if node is None else cluster.sim.lose_node(node)
                return None
            start = cluster.sim.clock_ns
            for mine in exchanges:
                step_without(mine, handle, lost)
            rank.synchronize()
            waited = cluster.sim.clock_ns - start
            check_mask(before, group, lost)
            loss = group.async_error()
            if loss is not None:
                assert isinstance(loss, ep.RemoteError)
                assert set(loss.ranks) <= set(lost)
            return [*(mine.results() for mine in exchanges), waited]

    found = cluster.run(main)
    for i in range(3):
        check_left(problem, mode, each(found, i), lost)
    for waited in each(found, 3):
        assert waited is None or waited <= LEAP * 2 * TIMEOUT_NS, waited


def run_until_the_lost_are_gone(
    cluster: Any, problem: Problem, mode: Mode, moments: dict[int, int], seed: int
) -> None:
    """Ranks die at these moments of a step or of the next dispatch and combine; then there are others."""
    results = run_with_deaths(cluster, problem, mode, moments, seed)
    check_counted(problem, mode, results, moments.keys())


def run_with_a_cut_rail(cluster: Any, problem: Problem, mode: Mode, rank_masks: int, cut: int) -> None:
    """A rank masks a rail peer that is well. The peer learns of it, and nobody else need know."""
    both = {rank_masks, cut}
    left = what_is_left(problem, mode, (), both)

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            rank.synchronize()
            if rank.rank == rank_masks:
                group.update_mask(mask_without(rank.num_ranks, cut))
            rank.barrier()
            for _ in range(2):
                write_results_of_experts(mine, left)
                mine.update(handle)
                mine.run(handle)
            gone = both - {rank.rank} if rank.rank in both else ()
            assert mask_of(rank, group) == mask_without(rank.num_ranks, *gone)
            return mine.results()

    for rank, found in enumerate(cluster.run(main)):
        assert_same(found, expected(left, rank, mode), f"rank {rank}")


def run_with_unequal_masks(cluster: Any, problem: Problem, mode: Mode, rank_masks: int, lost: int) -> None:
    """A rank masks one of its team that is well. All others do without that, too, and it learns of it."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            rank.synchronize()
            if rank.rank == rank_masks:
                group.update_mask(mask_without(rank.num_ranks, lost))
            rank.barrier()
            step_without(mine, handle, (lost,))
            rank.synchronize()
            everybody_else = set(range(rank.num_ranks)) - {lost}
            check_mask(mine, group, everybody_else if rank.rank == lost else (lost,))
            return mine.results()

    check_left(problem, mode, cluster.run(main), (lost,))


def combined_without(
    problem: Problem, rank: int, mode: Mode, lost: Collection[int], seed: int
) -> list[Array]:
    """What combine makes of any rows and gradients of experts, if those of the lost ranks do not come."""
    given = results_of_all_experts(problem, mode, seed)
    return combined(without_experts(problem, *lost), rank, mode, *given)


def run_with_deaths_before(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], call: str, seed: int
) -> None:
    """Ranks die before a dispatch or a combine. Sums lack their parts, and all else has come."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, 2) as (group, handle, mine, last):
            write_results_everywhere(mine, seed)
            if call == "combine":
                mine.dispatch(handle)
            meet(rank)
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            for _ in range(2):
                if call == "dispatch":
                    mine.dispatch(handle)
                mine.combine(handle)
            found = mine.results()
            check_masks_no_others(mine, group, lost)
            step_without(last, handle, lost)
            check_mask(mine, group, lost)
            return found, last.results()

    results = cluster.run(main)
    for rank, found in enumerate(each(results, 0)):
        if rank in lost:
            continue
        received = received_of(expected(problem, rank, mode))
        unspecified = lost if call == "dispatch" else ()
        known = ~is_from(problem, rank, mode, unspecified, len(received["received"]))
        assert_same(found, received, f"rank {rank}", known)
        sums, weights = combined_without(problem, rank, mode, lost, seed)
        assert_same(found, {"combined": sums}, f"rank {rank}")
        if mode.backward:
            assert_same(found, {"combined_weights": weights}, f"rank {rank}")
    check_left(problem, mode, each(results, 1), lost)


def run_without_lists(cluster: Any, problem: Problem, mode: Mode, node: int) -> None:
    """A node is counted in an update and sends no list: it finds that there is too little room, and fails."""
    lost = ranks_of(node, mode.team_size)

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode, 2) as (group, handle, mine, last):
            meet(rank)
            if rank.rank in lost:
                mine.mode = replace(mode, alignment=64)
                mine.make_handle(group)
                meet(rank)
                return None
            mine.update(handle)
            mine.run(handle)
            found = mine.results()
            rank.barrier()
            check_mask(mine, group, lost)
            step_without(last, handle, lost)
            return found, last.results()

    results = cluster.run(main)
    check_counted(problem, mode, each(results, 0), lost)
    check_left(problem, mode, each(results, 1), lost)


def combined_after_a_death(
    cluster: Any, mine: Exchange, group: ep.Group, handle: ep.Handle, lost: int
) -> dict[str, Array] | None:
    """A rank's results of a combine before which another one dies; None for that one."""
    rank = mine.rank
    meet(rank)
    if rank.rank == lost:
        cluster.sim.silence(rank.rank)
        return None
    mine.combine(handle)
    check_masks_no_others(mine, group, (lost,))
    return mine.results()


def die_in_an_update(
    cluster: Any, problem: Problem, mode: Mode, lost: int, moment: int
) -> list[tuple[str, Results, Results]]:
    """A rank dies so many steps after an update has begun.

    Returns what each survivor is told then, and what it has of that update, dispatch and combine, and of the
    next ones. The lost rank: "" and nothing.
    """

    def main(rank: Any) -> tuple[str, Results, Results]:
        with masked_exchanges(rank, problem, mode, 2) as (group, handle, mine, last):
            meet(rank)
            if rank.rank == lost:
                cluster.sim.silence(lost, after=moment)
            mine.update(handle)
            if rank.rank == lost:
                return "", {}, {}
            rank.synchronize()
            loss = group.async_error()
            mine.run(handle)
            found = mine.results()
            step_without(last, handle, (lost,))
            return loss.message if loss else "", found, last.results()

    found: list[tuple[str, Results, Results]] = cluster.run(main)
    return found


def die_while_awaited(
    make_cluster: Callable[[int], Any],
    problem: Problem,
    mode: Mode,
    lost: int,
    wait: str,
    seed: int,
) -> list[tuple[str, Results, Results]]:
    """The same at a moment such that rank 0 has waited for this in vain. ``make_cluster`` takes a seed."""

    def act(moment: int, cluster_seed: int) -> list[tuple[str, Results, Results]]:
        return die_in_an_update(make_cluster(cluster_seed), problem, mode, lost, moment)

    def says(found: list[tuple[str, Results, Results]], *waits: str) -> bool:
        return any(ends_in(found[0][0], wait, frozenset({lost})) for wait in waits)

    return at_some_moment(
        act,
        lambda found: says(found, wait),
        lambda found: says(found, *UPDATE_WAITS[: UPDATE_WAITS.index(wait)]),
        seed,
    )


def check_after_a_death(
    problem: Problem, mode: Mode, lost: int, found: list[tuple[str, Results, Results]]
) -> None:
    """The team of the lost rank and those of its rail peers go on, each with what it has counted."""
    check_counted(problem, mode, each(found, 1), (lost,))
    check_left(problem, mode, each(found, 2), (lost,))


def run_with_gradients_lost(cluster: Any, problem: Problem, mode: Mode, lost: int, seed: int) -> None:
    """A rank dies before a combine of the backward pass: gradients of its hits are 0, also in other teams."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            write_results_everywhere(mine, seed)
            mine.run(handle)
            return combined_after_a_death(cluster, mine, group, handle, lost)

    for rank, found in enumerate(cluster.run(main)):
        if found is not None and (rank // gpus == lost // gpus or rail_peer(rank, lost, gpus) != lost):
            sums, weights = combined_without(problem, rank, mode, (lost,), seed)
            assert_same(found, {"combined": sums, "combined_weights": weights}, f"rank {rank}")


def run_with_minus_zeros(cluster: Any, problem: Problem, mode: Mode, lost: int) -> None:
    """A rank dies before a combine with exact sums. What stands for its rows changes no sum, not even -0."""

    def main(rank: Any) -> Any:
        with masked_exchanges(rank, problem, mode) as (group, handle, mine):
            rank.write(mine.expert_rows, np.full(mine.expert_rows.shape, -0.0, mine.expert_rows.dtype))
            mine.dispatch(handle)
            return combined_after_a_death(cluster, mine, group, handle, lost)

    left = what_is_left(problem, mode, (lost,))
    for rank, found in enumerate(cluster.run(main)):
        if found is not None:
            has_rows, combined = (left.topk_idx[rank] >= 0).any(axis=1), found["combined"]
            assert not combined.any()
            assert np.signbit(combined[has_rows]).all(), f"rank {rank}"

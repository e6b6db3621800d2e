# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks across LSA teams: what is left when ranks are lost, and such runs.

A rank reaches the ranks of another team by way of its rail peer there. Who has lost that one has lost the
team, and the team has lost its tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import ht_oracle as oracle
import nccl_ep as ep
import numpy as np
from ht import EM, Exchange, Mode, Shape, expected
from ht_masks import (
    assert_same,
    give_results_of_experts,
    is_from,
    masked_config,
    results_of_experts,
    subsets,
    write_results_of_experts,
)
from ll import POISON
from masks import mask_of, without_experts, without_tokens
from oracle import Array, Problem

TIMEOUT_NS = 1_000_000  # of simulated time
LEAP = 2.1  # the simulated clock may be ahead as far as it has come since something happened


def shape_of(nodes: int, gpus: int, **changes: Any) -> Shape:
    return Shape(num_ranks=nodes * gpus, num_topk=3, hidden=16, max_tokens=6, no_route=0, **changes)


def ranks_of(node: int, gpus: int) -> tuple[int, ...]:
    return tuple(range(node * gpus, (node + 1) * gpus))


def rail_peer(rank: int, other: int, gpus: int) -> int:
    """The rank in the team of another one with a rank's place."""
    return other // gpus * gpus + rank % gpus


def reaches(rank: int, other: int, gpus: int, lost: Collection[int], cut: Collection[int] = ()) -> bool:
    """Whether tokens of a rank get to another one. ``cut``: rail peers that have lost one another."""
    if rank in lost or other in lost:
        return False
    peer = rail_peer(rank, other, gpus)
    return rank // gpus == other // gpus or not (peer in lost or {rank, peer} <= set(cut))


def what_is_left(problem: Problem, gpus: int, lost: Collection[int], cut: Collection[int] = ()) -> Problem:
    """The same problem as if no token was for an expert that it does not get to."""
    routes = []
    for rank, table in enumerate(problem.topk_idx):
        gone = [other for other in range(problem.num_ranks) if not reaches(rank, other, gpus, lost, cut)]
        routes.append(np.where(np.isin(table // problem.num_local_experts, gone), -1, table))
    return replace(problem, topk_idx=routes)


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
    assert_same(found, {name: wanted[name] for name in ("expert_counters", "total")}, f"rank {rank}")
    received = {name: values for name, values in wanted.items() if name.startswith("received")}
    known = ~is_from(case, rank, mode, doubtful, len(received["received"]))
    assert_same(found, received, f"rank {rank}", known)


def mask_left(rank: int, num_ranks: int, gpus: int, lost: Collection[int]) -> list[int]:
    """A rank has those masked that it has dealt with: of its team, and its rail peers."""
    return [
        int(other not in lost or not (other // gpus == rank // gpus or rail_peer(rank, other, gpus) == other))
        for other in range(num_ranks)
    ]


def step_without(
    mine: Exchange, handle: ep.Handle, problem: Problem, gpus: int, lost: Collection[int]
) -> None:
    """A whole step, when it is known who is lost."""
    write_results_of_experts(mine, what_is_left(problem, gpus, lost))
    mine.update(handle)
    mine.run(handle)


def check_left(problem: Problem, mode: Mode, results: list[Any], lost: Collection[int]) -> None:
    """All that are not lost have what is left."""
    left = what_is_left(problem, mode.team_size, lost)
    for rank, found in enumerate(results):
        if rank not in lost:
            wanted = expected(left, rank, mode)
            assert_same(found, wanted, f"rank {rank}")


def check_mask(rank: Any, group: ep.Group, gpus: int, lost: Collection[int]) -> None:
    mine, loss = mask_of(rank, group), group.async_error()
    assert mine == mask_left(rank.rank, rank.num_ranks, gpus, lost), f"rank {rank.rank}: {mine}, {loss}"


def check_masks_no_others(rank: Any, group: ep.Group, gpus: int, lost: Collection[int]) -> None:
    """A rank may not have heard yet of one that it had no rows for, and none from."""
    mine, most = mask_of(rank, group), mask_left(rank.rank, rank.num_ranks, gpus, lost)
    assert all(map(int.__ge__, mine, most)), f"rank {rank.rank}: {mine}, {group.async_error()}"


def run_with_the_dead(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], node: int | None
) -> None:
    """Ranks are lost between two steps; all of a node, whose links are then lost, too, or some."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            before, *exchanges = (Exchange(rank, problem, mode) for _ in range(4))
            handle = before.make_handle(group)
            before.run(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank) if node is None else cluster.sim.lose_node(node)
                return None
            start = cluster.sim.clock_ns
            for mine in exchanges:
                step_without(mine, handle, problem, gpus, lost)
            rank.synchronize()
            waited = cluster.sim.clock_ns - start
            check_mask(rank, group, gpus, lost)
            loss = group.async_error()
            if loss is not None:
                assert isinstance(loss, ep.RemoteError)
                assert set(loss.ranks) <= set(lost)
            return waited, [mine.results() for mine in exchanges]

    found = cluster.run(main)
    for i in range(3):
        check_left(problem, mode, [results and results[1][i] for results in found], lost)
    for results in found:
        assert results is None or results[0] <= LEAP * 2 * TIMEOUT_NS, results[0]


def run_until_the_lost_are_gone(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], moments: dict[int, int], seed: int
) -> None:
    """Ranks die at these moments of a step or of the next dispatch and combine; then there are others."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            first, *last = (Exchange(rank, problem, mode) for _ in range(3))
            give_results_of_experts(first, seed)
            handle = group.init_handle(
                mode.layout,
                problem.num_topk,
                config=ep.HandleConfig(mode.alignment if mode.alignment > 1 else 0),
            )
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moments[rank.rank])
            first.update(handle)
            for _ in range(2):
                first.run(handle)
            if rank.rank in lost:
                return None
            for mine in last:
                step_without(mine, handle, problem, gpus, lost)
            check_mask(rank, group, gpus, lost)
            return [mine.results() for mine in (first, *last)]

    found = cluster.run(main)
    check_counted(problem, mode, [results and results[0] for results in found], lost)
    for i in (1, 2):
        check_left(problem, mode, [results and results[i] for results in found], lost)


def run_with_some_that_come_back(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], moment: int, call: str, count: int
) -> list[Any]:
    """Ranks stand still from some moment of a call on, and end it when others have gone on."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine, left, whole = (Exchange(rank, problem, mode) for _ in range(3))
            handle = mine.make_handle(group)
            if call == "combine":
                mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank, after=moment)
                getattr(mine, call)(handle)
                rank.barrier()
                cluster.sim.wake(rank.rank)
                rank.synchronize()
            else:
                getattr(mine, call)(handle)
                for _ in range(count):
                    step_without(left, handle, problem, gpus, lost)
                found = left.results()
                check_mask(rank, group, gpus, lost)
                wanted = expected(what_is_left(problem, gpus, lost), rank.rank, mode)
                assert_same(found, wanted, f"rank {rank}")
                rank.barrier()
            rank.barrier()
            group.clean_mask()
            assert mask_of(rank, group) == [1] * rank.num_ranks
            for _ in range(2):
                whole.update(handle)
                whole.run(handle)
            return whole.results()

    found: list[Any] = cluster.run(main)
    return found


def run_with_late_ranks(cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], call: str) -> None:
    """Some begin with a call when the others have long gone on, and are in the middle of others."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                getattr(mine, call)(handle)
                mine.update(handle)
                mine.run(handle)
                rank.barrier()
                cluster.sim.wake(rank.rank)
                rank.synchronize()
                return None
            getattr(mine, call)(handle)
            step_without(mine, handle, problem, gpus, lost)
            rank.synchronize()
            rank.barrier()
            found = []
            for _ in range(3):
                step_without(mine, handle, problem, gpus, lost)
                found.append(mine.results())
            check_mask(rank, group, gpus, lost)
            return found

    results = cluster.run(main)
    left = what_is_left(problem, gpus, lost)
    for i in range(3):
        for rank, found in enumerate(results):
            if found is not None:
                wanted = expected(left, rank, mode)
                assert_same(found[i], wanted, f"rank {rank}", wanted["received"][:, 0] != POISON)


def run_with_a_cut_rail(cluster: Any, problem: Problem, mode: Mode, rank_masks: int, cut: int) -> None:
    """A rank masks a rail peer that is well. The peer learns of it, and nobody else need know."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            both = {rank_masks, cut}
            if rank.rank == rank_masks:
                group.update_mask([int(other != cut) for other in range(rank.num_ranks)])
            rank.barrier()
            for _ in range(2):
                write_results_of_experts(mine, what_is_left(problem, gpus, (), both))
                mine.update(handle)
                mine.run(handle)
            wanted = [
                int(rank.rank not in both or other not in both - {rank.rank})
                for other in range(rank.num_ranks)
            ]
            assert mask_of(rank, group) == wanted
            return mine.results()

    left = what_is_left(problem, gpus, (), {rank_masks, cut})
    for rank, found in enumerate(cluster.run(main)):
        assert_same(found, expected(left, rank, mode), f"rank {rank}")


def run_with_unequal_masks(cluster: Any, problem: Problem, mode: Mode, rank_masks: int, lost: int) -> None:
    """A rank masks one of its team that is well. All others do without that, too, and it learns of it."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            if rank.rank == rank_masks:
                group.update_mask([int(other != lost) for other in range(rank.num_ranks)])
            rank.barrier()
            step_without(mine, handle, problem, gpus, (lost,))
            rank.synchronize()
            if rank.rank != lost:
                check_mask(rank, group, gpus, (lost,))
            else:
                everybody = set(range(rank.num_ranks)) - {lost}
                assert mask_of(rank, group) == mask_left(lost, rank.num_ranks, gpus, everybody)
            return mine.results()

    check_left(problem, mode, cluster.run(main), (lost,))


def combined_without(
    problem: Problem, rank: int, mode: Mode, lost: Collection[int], seed: int
) -> list[Array]:
    """What combine makes of any rows and gradients of experts, if those of the lost ranks do not come."""
    given = [results_of_experts(problem, other, mode, seed) for other in range(problem.num_ranks)]
    rows, weights = [mine[0] for mine in given], [mine[1] for mine in given]
    left = without_experts(problem, *lost)
    if mode.layout is EM:
        return [
            oracle.combine_expert_major(left, rank, rows, mode.alignment, mode.room, mode.team_size),
            oracle.combine_weights_expert_major(left, rank, weights, mode.alignment),
        ]
    return [
        oracle.combine_flat(left, rank, rows, mode.room, mode.team_size),
        oracle.combine_weights_flat(left, rank, weights),
    ]


def run_with_deaths_before(
    cluster: Any, problem: Problem, mode: Mode, lost: Collection[int], call: str, seed: int
) -> None:
    """Ranks die before a dispatch or a combine. Sums lack their parts, and all else has come."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine, last = Exchange(rank, problem, mode), Exchange(rank, problem, mode)
            give_results_of_experts(mine, seed)
            handle = mine.make_handle(group)
            if call == "combine":
                mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                cluster.sim.silence(rank.rank)
                return None
            for _ in range(2):
                if call == "dispatch":
                    mine.dispatch(handle)
                mine.combine(handle)
            found = mine.results()
            check_masks_no_others(rank, group, gpus, lost)
            step_without(last, handle, problem, gpus, lost)
            check_mask(rank, group, gpus, lost)
            return found, last.results()

    results = cluster.run(main)
    for rank, both in enumerate(results):
        if both is None:
            continue
        found, wanted = both[0], expected(problem, rank, mode)
        received = {name: values for name, values in wanted.items() if name.startswith("received")}
        known = ~is_from(problem, rank, mode, lost, len(received["received"]))
        if call == "combine":
            known[:] = True
        assert_same(found, received, f"rank {rank}", known)
        sums, weights = combined_without(problem, rank, mode, lost, seed)
        assert_same(found, {"combined": sums}, f"rank {rank}")
        if mode.backward:
            assert_same(found, {"combined_weights": weights}, f"rank {rank}")
    check_left(problem, mode, [both and both[1] for both in results], lost)


def run_without_lists(cluster: Any, problem: Problem, mode: Mode, node: int) -> None:
    """A node is counted in an update and sends no list: it finds that there is too little room, and fails."""
    gpus, lost = mode.team_size, ranks_of(node, mode.team_size)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine, last = Exchange(rank, problem, mode), Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank in lost:
                mine.mode = replace(mode, alignment=64)
                mine.make_handle(group)
                rank.synchronize()
                rank.barrier()
                return None
            mine.update(handle)
            mine.run(handle)
            found = mine.results()
            rank.barrier()
            check_mask(rank, group, gpus, lost)
            step_without(last, handle, problem, gpus, lost)
            return found, last.results()

    results = cluster.run(main)
    check_counted(problem, mode, [both and both[0] for both in results], lost)
    check_left(problem, mode, [both and both[1] for both in results], lost)


def run_with_gradients_lost(cluster: Any, problem: Problem, mode: Mode, lost: int, seed: int) -> None:
    """A rank dies before a combine of the backward pass: gradients of its hits are 0, also in other teams."""
    gpus = mode.team_size

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, masked_config(problem, mode, timeout_ns=TIMEOUT_NS)) as group:
            mine = Exchange(rank, problem, mode)
            give_results_of_experts(mine, seed)
            handle = mine.make_handle(group)
            mine.run(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank == lost:
                cluster.sim.silence(rank.rank)
                return None
            mine.combine(handle)
            check_masks_no_others(rank, group, gpus, (lost,))
            return mine.results()

    for rank, found in enumerate(cluster.run(main)):
        if found is not None and (rank // gpus == lost // gpus or rail_peer(rank, lost, gpus) != lost):
            sums, weights = combined_without(problem, rank, mode, (lost,), seed)
            assert_same(found, {"combined": sums, "combined_weights": weights}, f"rank {rank}")

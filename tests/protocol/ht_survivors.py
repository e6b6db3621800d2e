# SPDX-License-Identifier: Apache-2.0
"""High-Throughput groups with masks: what survivors of lost ranks have.

It is what the oracle says of a problem in which no token is for an expert that it does not get to. In one LSA
team the lost ranks neither have tokens nor host experts then. A rank reaches the ranks of another team by way
of its rail peer there: who has lost that one has lost the team, and the team has lost its tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import ht_oracle as oracle
import nccl_ep as ep
import numpy as np
from ht import EM, Exchange, Mode, combine_expert_major, expected, expert_rows, gradients
from ll import POISON, assert_same_bits
from masks import mask_of
from oracle import Array, Problem

Results = dict[str, Array]


def gpus_of(mode: Mode, num_ranks: int) -> int:
    """How many ranks a team has."""
    return mode.team_size or num_ranks


def rail_peer(rank: int, other: int, gpus: int) -> int:
    """The rank in the team of another one with a rank's place."""
    return other // gpus * gpus + rank % gpus


def reaches(rank: int, other: int, gpus: int, lost: Collection[int], cut: Collection[int] = ()) -> bool:
    """Whether tokens of a rank get to another one. ``cut``: rail peers that have lost one another."""
    if rank in lost or other in lost:
        return False
    peer = rail_peer(rank, other, gpus)
    return rank // gpus == other // gpus or not (peer in lost or {rank, peer} <= set(cut))


def what_is_left(problem: Problem, mode: Mode, lost: Collection[int], cut: Collection[int] = ()) -> Problem:
    """The same problem as if no token was for an expert that it does not get to."""
    gpus = gpus_of(mode, problem.num_ranks)
    routes = []
    for rank, table in enumerate(problem.topk_idx):
        gone = [other for other in range(problem.num_ranks) if not reaches(rank, other, gpus, lost, cut)]
        routes.append(np.where(np.isin(table // problem.num_local_experts, gone), -1, table))
    return replace(problem, topk_idx=routes)


def mask_left(rank: int, num_ranks: int, gpus: int, lost: Collection[int]) -> list[int]:
    """A rank has those masked that it has dealt with: of its team, and its rail peers."""
    return [
        int(other not in lost or not (other // gpus == rank // gpus or rail_peer(rank, other, gpus) == other))
        for other in range(num_ranks)
    ]


def check_mask(mine: Exchange, group: ep.Group, lost: Collection[int]) -> None:
    found, wanted = masks_of(mine, group, lost)
    assert found == wanted, f"rank {mine.rank.rank}: {found}, {group.async_error()}"


def check_masks_no_others(mine: Exchange, group: ep.Group, lost: Collection[int]) -> None:
    """A rank may not have heard yet of one that it had no rows for, and none from."""
    found, most = masks_of(mine, group, lost)
    assert all(map(int.__ge__, found, most)), f"rank {mine.rank.rank}: {found}, {group.async_error()}"


def masks_of(mine: Exchange, group: ep.Group, lost: Collection[int]) -> tuple[list[int], list[int]]:
    """A rank's mask, and what it must be once the rank has dealt with the lost ones."""
    rank, gpus = mine.rank, gpus_of(mine.mode, mine.rank.num_ranks)
    return mask_of(rank, group), mask_left(rank.rank, rank.num_ranks, gpus, lost)


def assert_same(found: Results, wanted: Results, what: str, rows: Array | None = None) -> None:
    """To the bit. Outputs may be longer than they need be; ``rows``: those that count."""
    for name, values in wanted.items():
        mine = found[name][: len(values)]
        if rows is not None and name.startswith("received"):
            mine, values = mine[rows], values[rows]
        if name.startswith("combined"):  # -0 and 0 are both fine where nothing is added
            mine, values = mine + mine.dtype.type(0), values + values.dtype.type(0)
        assert_same_bits(mine, values, f"{what}: {name}")


def check_left(
    problem: Problem, mode: Mode, results: list[Any], lost: Collection[int], *, again: bool = False
) -> None:
    """All that are not lost have what is left. ``again``: behind its rows are those of a step before."""
    left = what_is_left(problem, mode, lost)
    for rank, found in enumerate(results):
        if rank not in lost:
            wanted = expected(left, rank, mode)
            rows = wanted["received"][:, 0] != POISON if again else None
            assert_same(found, wanted, f"rank {rank}", rows)


def received_of(wanted: Results) -> Results:
    """What comes with dispatch."""
    return {name: values for name, values in wanted.items() if name.startswith("received")}


def is_from(problem: Problem, rank: int, mode: Mode, sources: Collection[int], num_rows: int) -> Array:
    """Which rows of dispatch's output are for tokens of some ranks."""
    which = np.zeros(num_rows, bool)
    if mode.layout is EM:
        for (_, source, _), slot in oracle.slots_of(problem, rank, mode.alignment, mode.room).items():
            which[slot] = source in sources
    else:
        for i, row in enumerate(oracle.rows_of(problem, rank, mode.room)):
            which[i] = row.source in sources
    return which


def subsets(ranks: Collection[int]) -> list[tuple[int, ...]]:
    """All of them, the largest first."""
    return list(chain.from_iterable(combinations(ranks, n) for n in range(len(ranks), -1, -1)))


def results_of_experts(problem: Problem, rank: int, mode: Mode, seed: int) -> tuple[Array, Array]:
    """Rows that experts give back, and gradients, wherever rows may lie."""
    random = np.random.default_rng([seed, rank])
    shapes = expert_rows(problem, rank, mode), gradients(problem, rank, mode)
    rows, weights = (random.standard_normal(x.shape, np.float32).astype(x.dtype) for x in shapes)
    return rows, weights


def results_of_all_experts(problem: Problem, mode: Mode, seed: int) -> tuple[list[Array], list[Array]]:
    given = [results_of_experts(problem, rank, mode, seed) for rank in range(problem.num_ranks)]
    return [rows for rows, _ in given], [weights for _, weights in given]


def combined(problem: Problem, rank: int, mode: Mode, rows: list[Array], weights: list[Array]) -> list[Array]:
    """What combine makes of any rows and gradients that experts may give back."""
    if mode.layout is EM:
        return [
            combine_expert_major(problem, rank, mode, rows),
            oracle.combine_weights_expert_major(problem, rank, weights, mode.alignment, mode.room),
        ]
    return [
        oracle.combine_flat(problem, rank, rows, mode.room, mode.team_size),
        oracle.combine_weights_flat(problem, rank, weights, mode.room),
    ]

# SPDX-License-Identifier: Apache-2.0
"""What High-Throughput update, dispatch and combine mean, in NumPy, to the bit.

``Problem`` and the sums are those of :mod:`oracle`. A *row* is a token on a rank that has one of its experts.
In the expert-major layout each of its experts there has a *slot* of its own. ``room`` is for how many of them
each rank's output has room: what is more is dropped. None: there is room for all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from oracle import Array, Problem, _sum_in_order, sources_of_expert, tokens_for_rank


@dataclass(frozen=True)
class Row:
    """A token on a rank, with its experts there.

    Attributes:
        experts: in ascending order, each once.
        weights: of each expert: the sum over the places of the top-k that name it.
    """

    source: int
    token: int
    experts: list[int]
    weights: list[np.float32]


def rows_of(problem: Problem, rank: int, room: int | None = None) -> list[Row]:
    """A rank's rows, in the order of (source rank, token)."""
    rows = [
        Row(source, token, *_hits(problem, source, token, rank))
        for source in range(problem.num_ranks)
        for token in tokens_for_rank(problem, source, rank)
    ]
    return _thinned(rows, room)


def _thinned(things: list[Any], room: int | None) -> list[Any]:
    """Those for which there is room, evenly spread over all."""
    if room is None or len(things) <= room:
        return things
    kept: list[Any] = []
    for i, thing in enumerate(things):
        if (i + 1) * room // len(things) > len(kept):
            kept.append(thing)
    return kept


def _hits(problem: Problem, source: int, token: int, rank: int) -> tuple[list[int], list[np.float32]]:
    weights: dict[int, np.float32] = {}
    for expert, weight in zip(
        problem.topk_idx[source][token].tolist(), problem.topk_weights[source][token], strict=True
    ):
        if expert >= 0 and problem.rank_of(expert) == rank:
            weights[expert] = weights[expert] + weight if expert in weights else weight
    return sorted(weights), [weights[expert] for expert in sorted(weights)]


# ---- Update ----


@dataclass(frozen=True)
class Counts:
    """expert_counters, expert_offsets ``[L]`` and recv_total_counter of a rank.

    The total counts what is dropped, too.
    """

    experts: list[int]
    offsets: list[int]
    total: int


def counts_flat(problem: Problem, rank: int, room: int | None = None) -> Counts:
    kept = rows_of(problem, rank, room)
    experts = [sum(expert in row.experts for row in kept) for expert in _experts_of(problem, rank)]
    return Counts(experts, [], len(rows_of(problem, rank)))


def counts_expert_major(problem: Problem, rank: int, alignment: int = 1, room: int | None = None) -> Counts:
    zones = zones_of(problem, rank, alignment, room)
    experts = [_padded(len(zone.tokens), alignment) for zone in zones]
    total = sum(
        _padded(len(sources_of_expert(problem, expert)), alignment) for expert in _experts_of(problem, rank)
    )
    return Counts(experts, [zone.begin for zone in zones], total)


def _experts_of(problem: Problem, rank: int) -> range:
    return range(rank * problem.num_local_experts, (rank + 1) * problem.num_local_experts)


@dataclass(frozen=True)
class Zone:
    """An expert's slots: the (source rank, token) of each, from a place on."""

    begin: int
    tokens: list[tuple[int, int]]


def zones_of(problem: Problem, rank: int, alignment: int = 1, room: int | None = None) -> list[Zone]:
    """The zones of a rank's experts. Without room for all they shrink in proportion, in whole alignments."""
    tokens = [sources_of_expert(problem, expert) for expert in _experts_of(problem, rank)]
    wanted = [_padded(len(pairs), alignment) // alignment for pairs in tokens]
    edges = [sum(wanted[:i]) for i in range(len(wanted) + 1)]
    if room is not None and edges[-1] * alignment > room:
        edges = [edge * (room // alignment) // edges[-1] for edge in edges]
    return [
        Zone(begin * alignment, _thinned(pairs, (end - begin) * alignment))
        for pairs, begin, end in zip(tokens, edges[:-1], edges[1:], strict=True)
    ]


def _padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment


def slots_of(
    problem: Problem, rank: int, alignment: int = 1, room: int | None = None
) -> dict[tuple[int, int, int], int]:
    """The slot of each (expert, source rank, token) of a rank."""
    zones = zones_of(problem, rank, alignment, room)
    return {
        (expert, source, token): zone.begin + i
        for expert, zone in zip(_experts_of(problem, rank), zones, strict=True)
        for i, (source, token) in enumerate(zone.tokens)
    }


# ---- Dispatch ----


@dataclass
class Outputs:
    """Tokens ``[M, H]``; flat: topk_weights and topk_idx ``[M, K]``; expert-major: topk_weights ``[M]``."""

    tokens: Array
    topk_weights: Array
    topk_idx: Array | None = None


def dispatch_flat(
    problem: Problem, rank: int, before: Outputs, room: int | None = None, *, global_ids: bool = False
) -> Outputs:
    """What outputs hold that held ``before``. Rows behind the last one stay as they were."""
    assert before.topk_idx is not None
    out = Outputs(before.tokens.copy(), before.topk_weights.copy(), before.topk_idx.copy())
    assert out.topk_idx is not None
    first = 0 if global_ids else rank * problem.num_local_experts
    for i, row in enumerate(rows_of(problem, rank, room)):
        out.tokens[i] = problem.tokens[row.source][row.token]
        out.topk_idx[i] = -1
        out.topk_weights[i] = 0
        out.topk_idx[i, : len(row.experts)] = [expert - first for expert in row.experts]
        out.topk_weights[i, : len(row.experts)] = row.weights
    return out


def dispatch_expert_major(
    problem: Problem, rank: int, before: Outputs, alignment: int = 1, room: int | None = None
) -> Outputs:
    """The same, expert-major. Padding is zeros; slots behind the last expert's stay as they were."""
    out = Outputs(before.tokens.copy(), before.topk_weights.copy())
    total = sum(counts_expert_major(problem, rank, alignment, room).experts)
    out.tokens[:total] = 0
    out.topk_weights[:total] = 0
    slots = slots_of(problem, rank, alignment, room)
    for row in rows_of(problem, rank):
        for expert, weight in zip(row.experts, row.weights, strict=True):
            slot = slots.get((expert, row.source, row.token))
            if slot is None:
                continue
            out.tokens[slot] = problem.tokens[row.source][row.token]
            out.topk_weights[slot] = weight
    return out


# ---- Combine ----

Arrivals = list[tuple[int, Array]]  # a token's results, with the ranks that they come from, in their order


def combine_flat(
    problem: Problem, home: int, rows: list[Array], room: int | None = None, team_size: int = 0
) -> Array:
    """Rank ``home``'s tokens ``[b, H]``, from every rank's rows ``[M, H]``.

    ``team_size`` 0: all ranks are one LSA team.
    """
    return _sums(problem, home, arrivals_flat(problem, home, rows, room), team_size)


def arrivals_flat(problem: Problem, home: int, rows: list[Array], room: int | None = None) -> list[Arrivals]:
    """For each of rank ``home``'s tokens what the ranks send home."""
    arrivals: list[Arrivals] = [[] for _ in problem.tokens[home]]
    for rank in range(problem.num_ranks):
        for i, row in enumerate(rows_of(problem, rank, room)):
            if row.source == home:
                arrivals[row.token].append((rank, rows[rank][i]))
    return arrivals


def combine_expert_major(
    problem: Problem,
    home: int,
    slots: list[Array],
    alignment: int = 1,
    room: int | None = None,
    team_size: int = 0,
) -> Array:
    """The same from every rank's slots."""
    arrivals = [
        [(rank, total.astype(problem.dtype)) for rank, total in totals]
        for totals in arrivals_expert_major(problem, home, slots, alignment, room)
    ]
    return _sums(problem, home, arrivals, team_size)


def arrivals_expert_major(
    problem: Problem, home: int, slots: list[Array], alignment: int = 1, room: int | None = None
) -> list[Arrivals]:
    """The same, before it is rounded. A rank sums a token's slots in the order of its experts, in float32."""
    arrivals: list[Arrivals] = [[] for _ in problem.tokens[home]]
    for rank in range(problem.num_ranks):
        slot = slots_of(problem, rank, alignment, room)
        for row in rows_of(problem, rank):
            places = [(expert, home, row.token) for expert in row.experts]
            mine = [slots[rank][slot[place]].astype(np.float32) for place in places if place in slot]
            if row.source == home and mine:
                arrivals[row.token].append((rank, functools.reduce(np.add, mine)))
    return arrivals


def combine_exact(
    problem: Problem, home: int, slots: list[Array], alignment: int = 1, room: int | None = None
) -> Array:
    """The same in a group with ``exact_combine``: a plain loop over a token's experts in top-k order."""
    slot = [slots_of(problem, rank, alignment, room) for rank in range(problem.num_ranks)]
    out = np.zeros_like(problem.tokens[home])
    for token, experts in enumerate(problem.topk_idx[home].tolist()):
        rows = []
        for expert in dict.fromkeys(expert for expert in experts if expert >= 0):
            rank, place = problem.rank_of(expert), (expert, home, token)
            rows += [slots[rank][slot[rank][place]]] if place in slot[rank] else []
        out[token] = _sum_in_order(rows, problem)
    return out


def _sums(problem: Problem, home: int, arrivals: list[Arrivals], team_size: int) -> Array:
    """Sums the results of the home team's ranks, and behind them those of other teams, each summed before."""
    team_size = team_size or problem.num_ranks
    home_team = home // team_size
    out = np.zeros_like(problem.tokens[home])
    for token, results in enumerate(arrivals):
        teams: dict[int, list[Array]] = {}
        for rank, row in results:
            teams.setdefault(rank // team_size, []).append(row)
        rows = teams.pop(home_team, [])
        out[token] = _sum_in_order(rows + [_sum_in_order(team, problem) for team in teams.values()], problem)
    return out


def combine_weights_flat(
    problem: Problem, home: int, gradients: list[Array], room: int | None = None
) -> Array:
    """Backward: gradients of rank ``home``'s weights ``[b, K]``, from every rank's ``[M, K]``."""
    found = {
        (expert, row.source, row.token): gradients[rank][i, hit]
        for rank in range(problem.num_ranks)
        for i, row in enumerate(rows_of(problem, rank, room))
        for hit, expert in enumerate(row.experts)
    }
    return _gradients(problem, home, found)


def combine_weights_expert_major(
    problem: Problem, home: int, gradients: list[Array], alignment: int = 1, room: int | None = None
) -> Array:
    """The same from every rank's ``[M]``."""
    found = {
        place: gradients[rank][slot]
        for rank in range(problem.num_ranks)
        for place, slot in slots_of(problem, rank, alignment, room).items()
    }
    return _gradients(problem, home, found)


def _gradients(problem: Problem, home: int, found: dict[tuple[int, int, int], np.float32]) -> Array:
    """Every place of a top-k gets its expert's gradient, and zero if it has none or is dropped."""
    out = np.zeros(problem.topk_idx[home].shape, np.float32)
    for (token, k), expert in np.ndenumerate(problem.topk_idx[home]):
        out[token, k] = found.get((int(expert), home, token), 0)
    return out

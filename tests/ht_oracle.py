# SPDX-License-Identifier: Apache-2.0
"""What High-Throughput update, dispatch and combine mean, in NumPy, to the bit.

``Problem`` and the sums are those of :mod:`oracle`. A *row* is a token on a rank that has one of its experts.
In the expert-major layout each of its experts there has a *slot* of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def rows_of(problem: Problem, rank: int) -> list[Row]:
    """A rank's rows, in the order of (source rank, token)."""
    return [
        Row(source, token, *_hits(problem, source, token, rank))
        for source in range(problem.num_ranks)
        for token in tokens_for_rank(problem, source, rank)
    ]


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
    """expert_counters, expert_offsets ``[L]`` and recv_total_counter of a rank."""

    experts: list[int]
    offsets: list[int]
    total: int


def counts_flat(problem: Problem, rank: int) -> Counts:
    experts = [len(sources_of_expert(problem, expert)) for expert in _experts_of(problem, rank)]
    return Counts(experts, [], len(rows_of(problem, rank)))


def counts_expert_major(problem: Problem, rank: int, alignment: int = 1) -> Counts:
    experts = [
        -(-len(sources_of_expert(problem, expert)) // alignment) * alignment
        for expert in _experts_of(problem, rank)
    ]
    offsets = [sum(experts[:i]) for i in range(len(experts))]
    return Counts(experts, offsets, sum(experts))


def _experts_of(problem: Problem, rank: int) -> range:
    return range(rank * problem.num_local_experts, (rank + 1) * problem.num_local_experts)


def slots_of(problem: Problem, rank: int, alignment: int = 1) -> dict[tuple[int, int, int], int]:
    """The slot of each (expert, source rank, token) of a rank."""
    offsets = counts_expert_major(problem, rank, alignment).offsets
    return {
        (expert, source, token): offset + i
        for expert, offset in zip(_experts_of(problem, rank), offsets, strict=True)
        for i, (source, token) in enumerate(sources_of_expert(problem, expert))
    }


# ---- Dispatch ----


@dataclass
class Outputs:
    """Tokens ``[M, H]``; flat: topk_weights and topk_idx ``[M, K]``; expert-major: topk_weights ``[M]``."""

    tokens: Array
    topk_weights: Array
    topk_idx: Array | None = None


def dispatch_flat(problem: Problem, rank: int, before: Outputs, *, global_ids: bool = False) -> Outputs:
    """What outputs hold that held ``before``. Rows behind the last one stay as they were."""
    assert before.topk_idx is not None
    out = Outputs(before.tokens.copy(), before.topk_weights.copy(), before.topk_idx.copy())
    assert out.topk_idx is not None
    first = 0 if global_ids else rank * problem.num_local_experts
    for i, row in enumerate(rows_of(problem, rank)):
        out.tokens[i] = problem.tokens[row.source][row.token]
        out.topk_idx[i] = -1
        out.topk_weights[i] = 0
        out.topk_idx[i, : len(row.experts)] = [expert - first for expert in row.experts]
        out.topk_weights[i, : len(row.experts)] = row.weights
    return out


def dispatch_expert_major(problem: Problem, rank: int, before: Outputs, alignment: int = 1) -> Outputs:
    """The same, expert-major. Padding is zeros; slots behind the last expert's stay as they were."""
    out = Outputs(before.tokens.copy(), before.topk_weights.copy())
    total = counts_expert_major(problem, rank, alignment).total
    out.tokens[:total] = 0
    out.topk_weights[:total] = 0
    slots = slots_of(problem, rank, alignment)
    for row in rows_of(problem, rank):
        for expert, weight in zip(row.experts, row.weights, strict=True):
            slot = slots[expert, row.source, row.token]
            out.tokens[slot] = problem.tokens[row.source][row.token]
            out.topk_weights[slot] = weight
    return out


# ---- Combine ----


def combine_flat(problem: Problem, home: int, rows: list[Array]) -> Array:
    """Rank ``home``'s tokens ``[b, H]``, from every rank's rows ``[M, H]``."""
    arrivals: list[list[Array]] = [[] for _ in problem.tokens[home]]
    for rank in range(problem.num_ranks):
        for i, row in enumerate(rows_of(problem, rank)):
            if row.source == home:
                arrivals[row.token].append(rows[rank][i])
    return _sums(problem, home, arrivals)


def combine_expert_major(problem: Problem, home: int, slots: list[Array], alignment: int = 1) -> Array:
    """The same from every rank's slots. A rank sums a token's slots in the order of its experts."""
    arrivals: list[list[Array]] = [[] for _ in problem.tokens[home]]
    for rank in range(problem.num_ranks):
        slot = slots_of(problem, rank, alignment)
        for row in rows_of(problem, rank):
            if row.source == home:
                mine = [slots[rank][slot[expert, home, row.token]] for expert in row.experts]
                arrivals[row.token].append(_sum_in_order(mine, problem))
    return _sums(problem, home, arrivals)


def _sums(problem: Problem, home: int, arrivals: list[list[Array]]) -> Array:
    out = np.zeros_like(problem.tokens[home])
    for token, rows in enumerate(arrivals):
        out[token] = _sum_in_order(rows, problem)
    return out


def combine_weights_flat(problem: Problem, home: int, gradients: list[Array]) -> Array:
    """Backward: gradients of rank ``home``'s weights ``[b, K]``, from every rank's ``[M, K]``."""
    found = {
        (expert, row.source, row.token): gradients[rank][i, hit]
        for rank in range(problem.num_ranks)
        for i, row in enumerate(rows_of(problem, rank))
        for hit, expert in enumerate(row.experts)
    }
    return _gradients(problem, home, found)


def combine_weights_expert_major(
    problem: Problem, home: int, gradients: list[Array], alignment: int = 1
) -> Array:
    """The same from every rank's ``[M]``."""
    found = {
        place: gradients[rank][slot]
        for rank in range(problem.num_ranks)
        for place, slot in slots_of(problem, rank, alignment).items()
    }
    return _gradients(problem, home, found)


def _gradients(problem: Problem, home: int, found: dict[tuple[int, int, int], np.float32]) -> Array:
    """Every place of a top-k gets its expert's gradient, and zero if it has none."""
    out = np.zeros(problem.topk_idx[home].shape, np.float32)
    for (token, k), expert in np.ndenumerate(problem.topk_idx[home]):
        if expert >= 0:
            out[token, k] = found[int(expert), home, token]
    return out

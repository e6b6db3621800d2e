# SPDX-License-Identifier: Apache-2.0
"""What Low-Latency dispatch and combine mean, in NumPy.

A ``Problem`` holds the inputs of all ranks; the functions say what each rank must find in its outputs
afterwards, to the bit: where rows go, which places stay untouched, and in which order and precision sums are
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def in_groups(rows: Array, size: int) -> Array:
    """``[..., H]`` as ``[..., H / size, size]``."""
    return rows.reshape(*rows.shape[:-1], rows.shape[-1] // size, size)


@dataclass(frozen=True)
class Problem:
    """Inputs of all ranks. Lists have one entry a rank; rank r has ``len(tokens[r])`` tokens.

    Attributes:
        num_experts: of all ranks together.
        max_tokens: ``max_dispatch_tokens_per_rank``.
        tokens: ``[b, H]``.
        topk_idx: ``[b, K]``, -1 for no route.
        topk_weights: ``[b, K]`` float32.
    """

    num_experts: int
    max_tokens: int
    tokens: list[Array]
    topk_idx: list[Array]
    topk_weights: list[Array]

    @property
    def num_ranks(self) -> int:
        return len(self.tokens)

    @property
    def num_local_experts(self) -> int:
        return self.num_experts // self.num_ranks

    @property
    def num_topk(self) -> int:
        return int(self.topk_idx[0].shape[1])

    @property
    def hidden(self) -> int:
        return int(self.tokens[0].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tokens[0].dtype

    def rank_of(self, expert: int) -> int:
        return int(expert) // self.num_local_experts


def sources_of_expert(problem: Problem, expert: int) -> list[tuple[int, int]]:
    """The (source rank, token) pairs an expert receives, in the order of its rows."""
    return [
        (source, int(token))
        for source, routes in enumerate(problem.topk_idx)
        for token in np.flatnonzero((routes == expert).any(axis=1))
    ]


def tokens_for_rank(problem: Problem, source: int, rank: int) -> list[int]:
    """The tokens that a source sends to a rank, in the order of their rows."""
    routes = problem.topk_idx[source]
    return [int(token) for token in np.flatnonzero(_on_rank(problem, rank, routes).any(axis=1))]


def _on_rank(problem: Problem, rank: int, routes: Array) -> Array:
    return (routes >= 0) & (routes // problem.num_local_experts == rank)


# ---- Dispatch ----


def dispatch_expert_major(problem: Problem, rank: int, before: Array) -> tuple[Array, Array]:
    """Output tokens ``[L, R*B, H]`` that held ``before``, and expert_counters ``[L]``."""
    rows, counters = before.copy(), np.zeros(problem.num_local_experts, np.int32)
    for local in range(problem.num_local_experts):
        for source, token in sources_of_expert(problem, rank * problem.num_local_experts + local):
            rows[local, counters[local]] = problem.tokens[source][token]
            counters[local] += 1
    return rows, counters


@dataclass
class RankMajor:
    """Rank-major outputs: tokens ``[R, B, H]``, topk_weights and topk_idx ``[R, B, K]``, counters ``[R]``."""

    tokens: Array
    topk_weights: Array
    topk_idx: Array
    counters: Array


def dispatch_rank_major(
    problem: Problem, rank: int, before: Array, weights_before: Array, *, global_ids: bool = False
) -> RankMajor:
    """What rank-major outputs hold that held ``before``. Unused rows of topk_idx are -1 throughout."""
    first = rank * problem.num_local_experts
    shape = (problem.num_ranks, problem.max_tokens, problem.num_topk)
    out = RankMajor(
        before.copy(),
        weights_before.copy(),
        np.full(shape, -1, np.int32),
        np.zeros(problem.num_ranks, np.int32),
    )
    for source in range(problem.num_ranks):
        for row, token in enumerate(tokens_for_rank(problem, source, rank)):
            experts = problem.topk_idx[source][token]
            here = _on_rank(problem, rank, experts)
            out.tokens[source, row] = problem.tokens[source][token]
            out.topk_idx[source, row] = np.where(here, experts if global_ids else experts - first, -1)
            out.topk_weights[source, row] = np.where(here, problem.topk_weights[source][token], 0)
            out.counters[source] += 1
    return out


# ---- Combine ----


def combine_expert_major(problem: Problem, home: int, expert_rows: list[Array]) -> Array:
    """Rank ``home``'s tokens ``[b, H]``, from every rank's expert rows ``[L, R*B, H]``."""
    out = np.zeros_like(problem.tokens[home])
    for token, sums in enumerate(sums_expert_major(problem, home, expert_rows)):
        out[token] = _sum_in_order([row.astype(problem.dtype) for row in sums], problem)
    return out


def combine_exact(problem: Problem, home: int, expert_rows: list[Array]) -> Array:
    """The same in a group with ``exact_combine``: a plain loop over the top-k, in float32."""
    out = np.zeros_like(problem.tokens[home])
    place = _places(problem)
    for token, experts in enumerate(problem.topk_idx[home].tolist()):
        total = None
        for expert, weight in zip(experts, problem.topk_weights[home][token], strict=True):
            if expert >= 0:
                zone = expert_rows[problem.rank_of(expert)][expert % problem.num_local_experts]
                product = weight * zone[place[expert][home, token]].astype(np.float32)
                total = product if total is None else total + product
        if total is not None:
            out[token] = total.astype(problem.dtype)
    return out


def sums_expert_major(problem: Problem, home: int, expert_rows: list[Array]) -> list[list[Array]]:
    """For each token the ranks' sums over their own experts, in rank order, float32."""
    place = _places(problem)
    sums: list[list[Array]] = []
    for token, experts in enumerate(problem.topk_idx[home]):
        partial: dict[int, Array] = {}
        for expert, weight in _merged_routes(experts, problem.topk_weights[home][token]):
            rank, local = problem.rank_of(expert), expert % problem.num_local_experts
            row = expert_rows[rank][local, place[expert][home, token]].astype(np.float32)
            partial[rank] = fma(weight, row, partial[rank]) if rank in partial else weight * row
        sums.append([partial[rank] for rank in sorted(partial)])
    return sums


def combine_rank_major(problem: Problem, home: int, reduced_rows: list[Array]) -> Array:
    """Rank ``home``'s tokens ``[b, H]``, from every rank's reduced rows ``[R, B, H]``."""
    out = np.zeros_like(problem.tokens[home])
    for token, rows in enumerate(rows_rank_major(problem, home, reduced_rows)):
        out[token] = _sum_in_order(rows, problem)
    return out


def rows_rank_major(problem: Problem, home: int, reduced_rows: list[Array]) -> list[list[Array]]:
    """For each token the rows that its ranks send home, in rank order."""
    arrivals: list[list[Array]] = [[] for _ in problem.tokens[home]]
    for rank in range(problem.num_ranks):
        for row, token in enumerate(tokens_for_rank(problem, home, rank)):
            arrivals[token].append(reduced_rows[rank][home, row])
    return arrivals


def fma(a: Any, b: Array, c: Array) -> Array:
    """float32 a * b + c with a single rounding.

    The product is exact in float64. Their sum is rounded to odd there, after which rounding to float32 is as
    if there had been no rounding before.
    """
    product, addend = np.asarray(a, np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    from_product = total - addend
    error = (product - from_product) + (addend - (total - from_product))
    is_even = (total.view(np.int64) & 1) == 0
    neighbour = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & is_even, neighbour, total).astype(np.float32)


def _places(problem: Problem) -> dict[int, dict[tuple[int, int], int]]:
    """For each expert, the row of each (source rank, token)."""
    return {
        expert: {pair: row for row, pair in enumerate(sources_of_expert(problem, expert))}
        for expert in range(problem.num_experts)
    }


def _merged_routes(experts: Array, weights: Array) -> list[tuple[int, np.float32]]:
    """A token's routes in top-k order. An expert named twice is there once, with the sum of its weights."""
    merged: dict[int, np.float32] = {}
    for expert, weight in zip(experts.tolist(), weights, strict=True):
        if expert >= 0:
            merged[expert] = merged[expert] + weight if expert in merged else weight
    return list(merged.items())


def _sum_in_order(rows: list[Array], problem: Problem) -> Array:
    if not rows:
        return np.zeros(problem.hidden, problem.dtype)
    total = rows[0].astype(np.float32)
    for row in rows[1:]:
        total = total + row.astype(np.float32)
    return total.astype(problem.dtype)

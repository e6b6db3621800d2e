# SPDX-License-Identifier: Apache-2.0
"""The oracle itself: checked against a case worked out by hand, and against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracle
from hypothesis import given
from hypothesis import strategies as st

FLOATS = st.floats(-1e4, 1e4, width=32)


def two_ranks() -> oracle.Problem:
    """Two ranks with two experts each. Rank 0 has three tokens, rank 1 has one."""
    return oracle.Problem(
        num_experts=4,
        max_tokens=3,
        tokens=[np.array([[1.0], [2.0], [3.0]], np.float32), np.array([[4.0]], np.float32)],
        topk_idx=[np.array([[0, 3], [-1, -1], [3, 2]]), np.array([[3, 3]])],
        topk_weights=[np.array([[10, 20], [9, 9], [30, 40]], np.float32), np.array([[5, 6]], np.float32)],
    )


def test_expert_major_rows_lie_by_source_and_token() -> None:
    rows, counters = oracle.dispatch_expert_major(two_ranks(), 1, np.full((2, 6, 1), -1, np.float32))
    assert counters.tolist() == [1, 3]
    assert rows[0].ravel().tolist() == [3, -1, -1, -1, -1, -1]
    assert rows[1].ravel().tolist() == [1, 3, 4, -1, -1, -1]


def test_rank_major_rows_keep_their_columns() -> None:
    before, weights = np.full((2, 3, 1), -1, np.float32), np.full((2, 3, 2), -7, np.float32)
    out = oracle.dispatch_rank_major(two_ranks(), 1, before, weights)
    assert out.counters.tolist() == [2, 1]
    assert out.tokens[..., 0].tolist() == [[1, 3, -1], [4, -1, -1]]
    assert out.topk_idx.tolist() == [[[-1, 1], [1, 0], [-1, -1]], [[1, 1], [-1, -1], [-1, -1]]]
    assert out.topk_weights.tolist() == [[[0, 20], [30, 40], [-7, -7]], [[5, 6], [-7, -7], [-7, -7]]]
    with_global_ids = oracle.dispatch_rank_major(two_ranks(), 1, before, weights, global_ids=True)
    assert with_global_ids.topk_idx[0, 1].tolist() == [3, 2]


def test_combine_weighs_and_adds() -> None:
    rank0, rank1 = np.zeros((2, 6, 1), np.float32), np.zeros((2, 6, 1), np.float32)
    rank0[0, 0] = 7  # expert 0, token 0 of rank 0
    rank1[0, 0] = 2  # expert 2, token 2 of rank 0
    rank1[1, :3, 0] = [100, 200, 300]  # expert 3
    problem = two_ranks()
    home0 = oracle.combine_expert_major(problem, 0, [rank0, rank1])
    assert home0.ravel().tolist() == [10 * 7 + 20 * 100, 0, 30 * 200 + 40 * 2]
    assert oracle.combine_expert_major(problem, 1, [rank0, rank1]).ravel().tolist() == [(5 + 6) * 300]


def test_rank_major_combine_adds_ranks() -> None:
    rows = [np.zeros((2, 3, 1), np.float32) for _ in range(2)]
    rows[0][0, 0], rows[1][0, 0], rows[1][0, 1], rows[1][1, 0] = 1, 10, 20, 30
    assert oracle.combine_rank_major(two_ranks(), 0, rows).ravel().tolist() == [11, 0, 20]
    assert oracle.combine_rank_major(two_ranks(), 1, rows).ravel().tolist() == [30]


@given(FLOATS, FLOATS, FLOATS)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    found = float(oracle.fma(np.float32(a), np.array([b], np.float32), np.array([c], np.float32))[0])
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    error = abs(Fraction(found) - exact)
    for direction in (-np.inf, np.inf):
        neighbour = float(np.nextafter(np.float32(found), np.float32(direction)))
        assert error <= abs(Fraction(neighbour) - exact)


def test_fma_of_a_case_that_two_roundings_get_wrong() -> None:
    """1 + 2^-24 is half-way between two floats; a tiny product above it must round up."""
    tiny = np.float32(2.0**-60)
    c = np.array([1.0], np.float32)
    product_above_half = oracle.fma(np.float32(2.0**-24), np.array([1 + 2.0**-23], np.float32), c)
    assert product_above_half[0] == np.float32(1 + 2.0**-23)
    assert oracle.fma(tiny, np.array([1.0], np.float32), c)[0] == 1

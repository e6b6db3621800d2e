# SPDX-License-Identifier: Apache-2.0
"""Times become numbers."""

from __future__ import annotations

import numpy as np
import pytest

from ep_bench.statistics import percentile, ratio_of, slowest_rank


def test_an_iteration_takes_as_long_as_its_slowest_rank():
    times = np.array([[[1.0, 5.0]], [[2.0, 3.0]]])  # ranks, rounds, iterations
    assert slowest_rank(times).tolist() == [[2.0, 5.0]]


def test_percentiles_are_over_all_rounds():
    times = np.arange(1.0, 101.0).reshape(10, 10)
    assert percentile(times, 50) == pytest.approx(50.5)
    assert percentile(times, 99) == pytest.approx(99.01)


def test_a_ratio_compares_rounds_and_tells_their_spread():
    ours, theirs = (
        np.array([[10.0, 10.0], [20.0, 20.0], [10.0, 10.0]]),
        np.array([[20.0] * 2, [44.0] * 2, [19.0] * 2]),
    )
    ratio = ratio_of(ours, theirs)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.9, 2.2)
    assert str(ratio) == "2.00 (1.90 to 2.20)"

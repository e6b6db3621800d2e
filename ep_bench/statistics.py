# SPDX-License-Identifier: Apache-2.0
"""From times of iterations on every rank to the numbers in a row of the table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """How many times as long another library takes: median over rounds, and the range of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def slowest_rank(times: Times) -> Times:
    """``[rounds, iterations]`` from ``[ranks, rounds, iterations]``: an iteration ends with its last rank."""
    return np.asarray(times.max(axis=0))


def percentile(times: Times, percent: float) -> float:
    """A percentile over all rounds and iterations."""
    return float(np.percentile(times, percent))


def ratio_of(ours: Times, theirs: Times) -> Ratio:
    """Compares rounds ``[rounds, iterations]`` that were measured in turn."""
    ratios = np.median(theirs, axis=1) / np.median(ours, axis=1)
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))

# SPDX-License-Identifier: Apache-2.0
"""What rows that travel as NVFP4 must be, in float64: E2M1 numbers with an E4M3 scale for each 16 elements,
and a global scale for the row.

The library rounds in float32, so the oracle does not say which of two neighbouring numbers an element
becomes; it says how far off the element may come back: 1/5 of it, 1/22 of the largest magnitude of its 16, or
1/450,000 of the largest magnitude that the global scale stands for, whichever is most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from oracle import in_groups

Array = npt.NDArray[Any]

GROUP = 16
LARGEST = 2688.0
"""The largest number, 6, times the largest scale, 448."""
MOST_SCALE = 1e35
"""Larger global scales count as this one."""


def global_scales(rows: Array) -> Array:
    """What the caller gives for ``[..., H]``: ``[..., 1]`` float32, 0 for rows of zeros."""
    most = np.abs(rows.astype(np.float64)).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(most == 0, 0, LARGEST / most).astype(np.float32)


def limits_of(scales: Array) -> Array:
    """The largest magnitudes that global scales stand for, float64."""
    wide = scales.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.where(wide == 0, 0, LARGEST / wide)


def errors_of(row: Array, limit: float) -> Array:
    """How far off each element of a row may come back: ``[H]`` float64, NaN where NaN must come back."""
    groups = in_groups(np.abs(row.astype(np.float64)), GROUP)
    most = groups.max(axis=-1, keepdims=True)
    limit = max(limit, LARGEST / MOST_SCALE)
    errors = np.maximum(np.maximum(groups / 5, most / 22), limit / 450_000)
    return np.where(np.isfinite(most), errors, np.nan).reshape(row.shape)


def assert_sums(sums: list[list[Array]], limits: list[list[float]], found: Array, what: str = "") -> None:
    """Fails unless each row of ``found`` ``[b, H]`` bf16 sums up a token's rows, each come as NVFP4.

    ``limits`` are the rows' largest magnitudes, as far as their global scales know.
    """
    for token, (rows, most) in enumerate(zip(sums, limits, strict=True)):
        exact, bound = np.zeros(found.shape[1]), np.zeros(found.shape[1])
        for row, limit in zip(rows, most, strict=True):
            with np.errstate(invalid="ignore"):  # infinities of both signs
                exact += row.astype(np.float64)
            bound += errors_of(row, limit)
        bound = (bound + (np.abs(exact) + bound) / 256) * (1 + 1e-5)
        values = found[token].astype(np.float64)
        with np.errstate(invalid="ignore"):
            right = np.where(np.isnan(bound), np.isnan(values), np.abs(values - exact) <= bound)
        if not right.all():
            place = int(np.flatnonzero(~right)[0])
            raise AssertionError(
                f"{what}[{token}, {place}] is {values[place]}, expected {exact[place]} +- {bound[place]}"
            )

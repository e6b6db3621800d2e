# SPDX-License-Identifier: Apache-2.0
"""What quantized rows must be: E4M3 numbers with a float32 scale for each group of 128 elements, in float64.

The library rounds in float32, so the oracle does not say which of two neighbouring numbers an element
becomes; it says how far number times scale may be from the element: 1/16 of it, or 1/1024 of the scale where
that is more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from oracle import in_groups

Array = npt.NDArray[Any]

GROUP = 128
LARGEST = 448.0
"""The largest number of E4M3."""
LEAST_MAGNITUDE = 1e-4
"""Groups of smaller elements get the scale of this one."""


def scales_of(elements: Array, *, rounded: bool = False) -> Array:
    """The scale of each group, ``[..., H / 128]`` float64; infinite where an element is not finite."""
    magnitudes = np.abs(in_groups(elements, GROUP).astype(np.float64))
    most = np.maximum(magnitudes.max(axis=-1), LEAST_MAGNITUDE)
    scales = np.where(np.isfinite(magnitudes).all(axis=-1), most / LARGEST, np.inf)
    return np.exp2(np.ceil(np.log2(scales))) if rounded else scales


def assert_quantized(
    elements: Array, numbers: Array, scales: Array, *, rounded: bool = False, what: str = ""
) -> None:
    """Fails unless E4M3 ``numbers`` ``[..., H]`` and ``scales`` ``[..., H / 128]`` stand for ``elements``."""
    wanted = scales_of(elements, rounded=rounded)
    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore"):
        wrong = np.abs(scales - wanted) > (0 if rounded else 2.0**-22) * wanted
    _assert_none(finite & wrong, scales, wanted, f"{what} scales")
    _assert_none(~finite & (scales != np.inf), scales, wanted, f"{what} scales")

    exact = in_groups(elements, GROUP).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = in_groups(numbers, GROUP).astype(np.float64) * scales.astype(np.float64)[..., None]
        bound = np.maximum(np.abs(exact) / 16, scales.astype(np.float64)[..., None] / 1024) * (1 + 1e-6)
        close = np.abs(found - exact) <= bound
    _assert_none(~np.where(finite[..., None], close, np.isnan(found)), found, exact, f"{what} rows")


def assert_sums(sums: list[list[Array | list[Array]]], found: Array, what: str = "") -> None:
    """Fails unless each row of ``found`` ``[b, H]`` bf16 sums up a token's rows, each quantized before.

    In place of a row there may be several, which are quantized, added up and quantized once more.
    """
    for token, rows in enumerate(sums):
        exact, bound = np.zeros(found.shape[1]), np.zeros(found.shape[1])
        for row in rows:
            value, error = _quantized_once_more(row) if isinstance(row, list) else _quantized(row)
            exact += value
            bound += error
        bound = (bound + (np.abs(exact) + bound) / 256) * (1 + 1e-5)
        wrong = np.abs(found[token].astype(np.float64) - exact) > bound
        _assert_none(wrong, found[token], exact, f"{what}[{token}]")


def _quantized(row: Array, error: float | Array = 0.0) -> tuple[Array, Array]:
    """A row and how far off it may be when it has been quantized, having been off by ``error`` before."""
    exact = row.astype(np.float64)
    most = np.abs(exact) + error
    return exact, error + np.maximum(most / 16, np.repeat(scales_of(most), GROUP) / 1024)


def _quantized_once_more(rows: list[Array]) -> tuple[Array, Array]:
    exact, errors = zip(*map(_quantized, rows), strict=True)
    return _quantized(sum(exact), sum(errors))


def _assert_none(wrong: Array, found: Array, wanted: Array, what: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{what}{list(place)} is {found[place]}, expected {wanted[place]}")

# SPDX-License-Identifier: Apache-2.0
"""Comparisons that say what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class WrongData(Exception):
    """A result is not what it must be."""


def expect_equal(found: Array, wanted: Array, what: str) -> None:
    """Raises WrongData, as all of these do, if a number differs."""
    if not np.array_equal(found, wanted):
        place = tuple(int(i) for i in np.argwhere(found != wanted)[0])
        raise WrongData(f"{what}{list(place)} is {found[place]}, expected {wanted[place]}")


def expect_bits(found: Array, wanted: Array, what: str) -> None:
    """A bit may not differ, which also tells NaNs and zeros apart."""
    bits = f"u{wanted.dtype.itemsize}"
    differ = np.ascontiguousarray(found).view(bits) != np.ascontiguousarray(wanted).view(bits)
    if differ.any():
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        raise WrongData(f"{what}{list(place)} is {found[place]}, expected {wanted[place]} to the bit")


def expect_close(found: Array, wanted: Array, allowed: Array, what: str, first: int = 0) -> None:
    """A number may be off by so much, and is no NaN. Rows are counted from ``first`` on."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(found - wanted) <= allowed)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise WrongData(
            f"{what}[{first + row}, {column}] is {found[row, column]:.6g}, expected "
            f"{wanted[row, column]:.6g} within {allowed[row, column]:.2g}; "
            f"{wrong.sum()} of {wrong.size} numbers are wrong"
        )

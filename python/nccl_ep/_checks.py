# SPDX-License-Identifier: Apache-2.0
"""Arguments that cffi would refuse without their names."""

from __future__ import annotations

from operator import index
from typing import Any, get_args


def check_types(**arguments: tuple[Any, Any]) -> None:
    """Raises a TypeError for the first argument that has another type: ``name=(value, expected)``.

    ``expected`` is a class or ``Class | None``.
    """
    for name, (value, expected) in arguments.items():
        if not isinstance(value, expected):
            kinds = [kind.__name__ for kind in get_args(expected) or (expected,)]
            wanted = " or ".join(kinds).replace("NoneType", "None")
            raise TypeError(f"{name} is {_kind_of(value)}, expected {wanted}")


def member(name: str, value: Any, of: type) -> int:
    """The number for C of an enumeration's member. Whether there is one with this number, C says."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected a member of {of.__name__}") from None


def whole(name: str, value: Any) -> int:
    """A number without a fraction, also of another package's type."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected a whole number") from None


def unsigned(name: str, value: Any, *, bits: int = 32, least: int = 0) -> int:
    """A whole number for a C field of so many bits."""
    number = whole(name, value)
    if number < least:
        raise ValueError(f"{name} is {number}, expected at least {least}")
    if number >> bits:
        raise ValueError(f"{name} is {number}, expected at most {(1 << bits) - 1}")
    return number


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

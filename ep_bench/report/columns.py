# SPDX-License-Identifier: Apache-2.0
"""Which columns people see: what was varied, then times, then bytes. What never varies is no column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ep_bench.rows import CASE_NAMES, Row


@dataclass(frozen=True)
class Column:
    """A column: its name in the code, its title, and a row's text in it."""

    name: str
    title: str
    text: Callable[[Row], str]


_ALWAYS = ("op", "mode")


def columns_for(rows: Sequence[Row], *, verbose: bool = False) -> list[Column]:
    """The columns of a table of these rows."""
    names = [name for name in CASE_NAMES if _varies(rows, name)] + list(_ALWAYS)
    columns = [_plain(name) for name in names]
    if _varies(rows, "library"):
        columns.append(Column("library", "library", lambda row: short_name(row.library)))
    if any(row.ratio for row in rows):
        columns.append(Column("ratio", "times ours (range)", lambda row: str(row.ratio or "")))
    if any(row.p50_us is not None for row in rows):
        columns += _TIMES
        if verbose:
            columns.append(_number("host_call_us", "host call µs", 2))
    if any(row.dropped_rows for row in rows):
        columns.append(_number("dropped_rows", "dropped rows", 0))
    columns += _BYTES
    columns.append(Column("verified", "verified", lambda row: "yes" if row.verified else "WRONG"))
    return columns


def constants_of(rows: Sequence[Row]) -> dict[str, str]:
    """What was not varied, with its value."""
    names = [name for name in (*CASE_NAMES, "recipe", "seed") if not _varies(rows, name)]
    values = {name.replace("_", " "): getattr(rows[0], name) for name in names}
    return {name: in_words(value) for name, value in values.items() if value is not None}


def _varies(rows: Sequence[Row], name: str) -> bool:
    return len({getattr(row, name) for row in rows}) > 1


def _plain(name: str) -> Column:
    return Column(name, name.replace("_", " "), lambda row: in_words(getattr(row, name)))


def in_words(value: Any) -> str:
    """A value of a row as people write it."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _number(name: str, title: str, digits: int) -> Column:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:,.{digits}f}"

    return Column(name, title, text)


def _share_of_ceiling(row: Row) -> str:
    if row.remote_gbps is None or not row.ceiling_gbps:
        return ""
    return f"{100 * row.remote_gbps / row.ceiling_gbps:.0f} %"


def _overhead(row: Row) -> str:
    return f"{row.remote_bytes / row.ideal_remote_bytes:.3f}" if row.ideal_remote_bytes else ""


def short_name(library: str) -> str:
    """The library under test by its name, the other one by its part; its path is said elsewhere."""
    return "compared" if "/" in library else library


_TIMES = [
    _number("p50_us", "p50 µs", 1),
    _number("p99_us", "p99 µs", 1),
    _number("remote_gbps", "GB/s", 0),
    Column("share", "of ceiling", _share_of_ceiling),
]
_BYTES = [
    _number("remote_bytes", "remote bytes", 0),
    Column("overhead", "to ideal", _overhead),
]
NEEDED_LEAST = ("host_call_us", "p99_us", "overhead", "remote_bytes", "share", "remote_gbps")
"""Names of columns that can be done without, in this order."""

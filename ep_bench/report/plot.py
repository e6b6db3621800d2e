# SPDX-License-Identifier: Apache-2.0
"""Rows as a picture: a panel for each operation, a line for each way to do it, and along the bottom tokens,
or SMs where those were varied instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ep_bench.exits import UsageError
from ep_bench.report.columns import columns_for, constants_of, in_words, short_name
from ep_bench.report.page import web_page
from ep_bench.report.screen import describe
from ep_bench.rows import SETTING_NAMES, Row, Setup


def require_matplotlib() -> None:
    """UsageError if pictures cannot be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("--plot needs matplotlib (pip install 'nccl-ep[plot]', or matplotlib)") from None


def write_plot(target: str, rows: Sequence[Row], setup: Setup) -> None:
    """A ``.png`` or ``.svg``, or an ``.html`` that needs no other file."""
    if target.endswith(".html"):
        Path(target).write_text(page(rows, setup))
    else:
        draw(rows).savefig(target, dpi=150)


def page(rows: Sequence[Row], setup: Setup) -> str:
    """A web page with the picture and the table."""
    columns = columns_for(rows, verbose=True)
    common = ", ".join(f"{name} {value}" for name, value in constants_of(rows).items())
    return web_page(
        "ep_bench",
        [*describe(setup), common],
        draw(rows),
        [column.title for column in columns],
        [[column.text(row) for column in columns] for row in rows],
        [not row.verified for row in rows],
    )


@dataclass(frozen=True)
class _Axes:
    """What is drawn over what.

    Attributes:
        up: what a row says, or None if it says nothing.
        ceiling: the most that a row could say, if that is drawn as well.
        from_zero: the axis begins there.
        across: the field along the bottom.
    """

    up: Callable[[Row], float | None]
    up_title: str
    ceiling: Callable[[Row], float | None] = lambda row: None
    from_zero: bool = True
    across: str = "tokens"


_TIMES = _Axes(lambda row: row.p50_us, "µs, p50 of the slowest rank")
_BANDWIDTHS = _Axes(
    lambda row: row.remote_gbps, "GB/s, p50 of the slowest rank", ceiling=lambda row: row.ceiling_gbps
)
_BYTES = _Axes(
    lambda row: row.remote_bytes / row.ideal_remote_bytes if row.ideal_remote_bytes else None,
    "remote bytes, to ideal",
    from_zero=False,
)
_ACROSS = {"tokens": "tokens per rank", "sms": "SMs"}


def _axes_for(rows: Sequence[Row]) -> _Axes:
    varied = {name for name in _ACROSS if len({getattr(row, name) for row in rows}) > 1}
    over_sms = varied == {"sms"}
    timed = _BANDWIDTHS if over_sms else _TIMES
    kind = _BYTES if all(row.p50_us is None for row in rows) else timed
    return replace(kind, across="sms" if over_sms else "tokens")


def draw(rows: Sequence[Row]) -> Any:
    """A matplotlib figure: microseconds over tokens; bandwidth over SMs, beside what a bare push of rows
    reaches with as many; without times, over either, remote bytes by the ideal ones."""
    from matplotlib.figure import Figure

    kind = _axes_for(rows)
    shown = [row for row in rows if kind.up(row) is not None]
    ops = list(dict.fromkeys(row.op for row in shown)) or ["nothing to draw"]
    figure = Figure(figsize=(3.6 * len(ops) + 1.5, 4.2), layout="constrained")
    for axes, op in zip(figure.subplots(1, len(ops), squeeze=False)[0], ops, strict=True):
        _fill(axes, [row for row in shown if row.op == op], shown, kind)
        axes.set_title(op)
    first = figure.axes[0]
    first.set_ylabel(kind.up_title)
    if shown:
        first.legend(fontsize="small")
    return figure


def _fill(axes: Any, rows: Sequence[Row], shown: Sequence[Row], kind: _Axes) -> None:
    for label, line in _lines(rows, shown, kind.across).items():
        axes.plot(
            [getattr(row, kind.across) for row in line], [kind.up(row) for row in line], "o-", label=label
        )
    ceilings = sorted({(getattr(row, kind.across), kind.ceiling(row)) for row in rows if kind.ceiling(row)})
    if ceilings:
        axes.plot(*zip(*ceilings, strict=True), "--", color="gray", label="bare push of rows")
    if kind.across == "tokens":
        axes.set_xscale("log", base=2)
    axes.set_xlabel(_ACROSS[kind.across])
    places = sorted({getattr(row, kind.across) for row in shown})
    axes.set_xticks(places, [str(place) for place in places])
    axes.grid(alpha=0.3)
    if kind.from_zero:
        axes.set_ylim(bottom=0)


def _lines(rows: Sequence[Row], shown: Sequence[Row], across: str) -> dict[str, list[Row]]:
    """Rows by everything but what is across, under a label of what differs."""
    names = [name for name in ("layout", "mode", "tokens", *SETTING_NAMES, "library") if name != across]
    varied = [name for name in names if len({getattr(row, name) for row in shown}) > 1]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        label = ", ".join(_label(name, getattr(row, name)) for name in varied) or "nccl_ep"
        lines.setdefault(label, []).append(row)
    return {label: sorted(line, key=lambda row: int(getattr(row, across))) for label, line in lines.items()}


def _label(name: str, value: Any) -> str:
    if name == "library":
        return short_name(value)
    return str(value) if isinstance(value, str) else f"{name.replace('_', ' ')} {in_words(value)}"

# SPDX-License-Identifier: Apache-2.0
"""Rows as a picture: a panel for each operation, a line for each way to do it, tokens along the bottom."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ep_bench.exits import UsageError
from ep_bench.report.columns import columns_for, constants_of, in_words, short_name
from ep_bench.report.screen import describe
from ep_bench.rows import SETTING_NAMES, Row, Setup

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; }
svg { max-width: 100%; height: auto; }
.wrong { color: #b00; font-weight: bold; }
"""


def require_matplotlib() -> None:
    """UsageError if pictures cannot be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("--plot needs matplotlib (pip install 'nccl-ep[plot]', or matplotlib)") from None


def write_plot(target: str, rows: Sequence[Row], setup: Setup) -> None:
    """A ``.png``, or an ``.html`` that needs no other file."""
    if target.endswith(".png"):
        draw(rows).savefig(target, dpi=150)
    else:
        Path(target).write_text(page(rows, setup))


def page(rows: Sequence[Row], setup: Setup) -> str:
    """A web page with the picture and the table."""
    picture = io.StringIO()
    draw(rows).savefig(picture, format="svg")
    svg = picture.getvalue()
    columns = columns_for(rows, verbose=True)
    head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{escape(column.text(row))}</td>" for column in columns)
        lines.append(f"<tr{'' if row.verified else ' class=wrong'}>{cells}</tr>")
    common = ", ".join(f"{name} {value}" for name, value in constants_of(rows).items())
    about = "".join(f"<p>{escape(line)}</p>" for line in [*describe(setup), common])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ep_bench</title><style>{_STYLE}</style>'
        f"<h1>ep_bench</h1>{about}{svg[svg.index('<svg') :]}"
        f"<table><tr>{head}</tr>{''.join(lines)}</table></html>\n"
    )


def draw(rows: Sequence[Row]) -> Any:
    """A matplotlib figure: microseconds where there are times, else remote bytes over the ideal."""
    from matplotlib.figure import Figure

    timed = any(row.p50_us is not None for row in rows)
    shown = [row for row in rows if _value(row, timed) is not None]
    ops = list(dict.fromkeys(row.op for row in shown)) or ["nothing to draw"]
    figure = Figure(figsize=(3.6 * len(ops) + 1.5, 4.2), layout="constrained")
    for axes, op in zip(figure.subplots(1, len(ops), squeeze=False)[0], ops, strict=True):
        for label, line in _lines([row for row in shown if row.op == op], shown).items():
            axes.plot([row.tokens for row in line], [_value(row, timed) for row in line], "o-", label=label)
        axes.set_title(op)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens per rank")
        axes.set_xticks(*_ticks(shown))
        axes.grid(alpha=0.3)
        if timed:
            axes.set_ylim(bottom=0)
    first = figure.axes[0]
    first.set_ylabel("µs, p50 of the slowest rank" if timed else "remote bytes, to ideal")
    first.legend(fontsize="small")
    return figure


def _value(row: Row, timed: bool) -> float | None:
    if timed:
        return row.p50_us
    return row.remote_bytes / row.ideal_remote_bytes if row.ideal_remote_bytes else None


def _ticks(rows: Sequence[Row]) -> tuple[list[int], list[str]]:
    tokens = sorted({row.tokens for row in rows})
    return tokens, [str(count) for count in tokens]


def _lines(rows: Sequence[Row], shown: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by everything but tokens, under a label of what differs."""
    names = ("layout", "mode", *SETTING_NAMES, "library")
    varied = [name for name in names if len({getattr(row, name) for row in shown}) > 1]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        label = ", ".join(_label(name, getattr(row, name)) for name in varied) or "all"
        lines.setdefault(label, []).append(row)
    return {label: sorted(line, key=lambda row: row.tokens) for label, line in lines.items()}


def _label(name: str, value: Any) -> str:
    if name == "library":
        return short_name(value)
    return str(value) if isinstance(value, str) else f"{name.replace('_', ' ')} {in_words(value)}"

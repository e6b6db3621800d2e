# SPDX-License-Identifier: Apache-2.0
"""Predictions as a table, as JSON, and as a picture over node counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ep_bench.report.page import web_page
from nccl_ep.model.prediction import Case, Prediction
from nccl_ep.model.times import Machine

_TITLES = {
    "nodes": "nodes",
    "operation": "operation",
    "nvlink_bytes": "NVLink\nMB",
    "rail_bytes": "rail\nMB",
    "rail_messages": "rail\nmessages",
    "bound_us": "at least\nµs",
    "estimate_us": "estimate\nµs",
    "limit": "limited\nby",
}


def describe(case: Case, machine: Machine, gpus_per_node: int, routing: str) -> str:
    """What was assumed, in one line."""
    return (
        f"{gpus_per_node} GPUs a node, {case.algorithm.name.replace('_', ' ').lower()}, "
        f"{case.layout.name.replace('_', '-').lower()}, "
        f"{case.tokens} tokens of {case.row_bytes} bytes, top-{case.num_topk} of {case.num_experts}, "
        f"{routing}; "
        f"NVLink {machine.nvlink_gbps:g} GB/s, rail {machine.rail_gbps:g} GB/s, "
        f"{machine.rail_latency_us:g} µs and {machine.message_us:g} µs a message"
    )


def table(rows: Sequence[Prediction], title: str) -> Table:
    """For the screen."""
    shown = Table(title=title, header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
    for name, heading in _TITLES.items():
        justify: Literal["left", "right"] = "left" if name in ("operation", "limit") else "right"
        shown.add_column(heading, justify=justify, no_wrap=True)
    for row in rows:
        is_step = row.operation == "step"
        shown.add_row(*_cells(row), style="bold" if is_step else None, end_section=is_step)
    return shown


def as_json(rows: Sequence[Prediction], case: Case, machine: Machine, routing: str) -> str:
    """For programs: what was assumed, and the predictions by their fields."""
    assumed = asdict(case) | {
        "algorithm": case.algorithm.name,
        "layout": case.layout.name,
        "routing": routing,
    }
    report = {"case": assumed, "machine": asdict(machine), "predictions": [asdict(row) for row in rows]}
    return json.dumps(report, indent=2)


def write_plot(target: str, rows: Sequence[Prediction], title: str) -> None:
    """A picture, or with ``.html`` a page that has the table as well and needs no other file."""
    if target.endswith(".html"):
        Path(target).write_text(_page(rows, title))
    else:
        draw(rows, title).savefig(target, dpi=150)


def draw(rows: Sequence[Prediction], title: str) -> Any:
    """A matplotlib figure over node counts: time, with the bound below it, and bytes of the busiest rail."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title, fontsize="small")
    times, rails = figure.subplots(1, 2)
    for operation, marker in zip(dict.fromkeys(row.operation for row in rows), "osxD", strict=False):
        line = [row for row in rows if row.operation == operation]
        nodes = [row.nodes for row in line]
        style = {"marker": marker, "fillstyle": "none", "label": operation}
        (drawn,) = times.plot(nodes, [row.estimate_us for row in line], **style)
        times.plot(nodes, [row.bound_us for row in line], ":", color=drawn.get_color())
        rails.plot(nodes, [row.rail_bytes / 1e6 for row in line], **style)
    times.set_title("time; dotted: the bound of the links")
    times.set_ylabel("µs")
    rails.set_title("bytes of the busiest rail")
    rails.set_ylabel("MB")
    places = sorted({row.nodes for row in rows})
    for axes in (times, rails):
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.set_xlabel("nodes")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    times.legend(fontsize="small")
    return figure


def _page(rows: Sequence[Prediction], title: str) -> str:
    return web_page("nccl_ep.model", [], draw(rows, title), _TITLES.values(), [_cells(row) for row in rows])


def _cells(row: Prediction) -> list[str]:
    return [_cell(name, getattr(row, name)) for name in _TITLES]


def _cell(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / 1e6:,.2f}"
    if name.endswith("_us"):
        return f"{value:,.1f}"
    return f"{value:,.0f}" if isinstance(value, float) else str(value)

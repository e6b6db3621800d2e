# SPDX-License-Identifier: Apache-2.0
"""The screen: what runs on what, a progress bar, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from nccl_ep._output import Output
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ep_bench.launch.watchdog import Watchdog
from ep_bench.report.columns import NEEDED_LEAST, Column, columns_for, constants_of
from ep_bench.rows import Row, Setup

_BOUNDLESS = 10_000
_LEFT = {"layout", "op", "mode", "library", "dtype", "routing"}


class Screen:
    """Rank 0's audience. The bar and complaints go to stderr, so that stdout has nothing but results."""

    def __init__(self, console: Console, watchdog: Watchdog) -> None:
        self._results = Output("ep_bench", console)
        self._errors = Output("ep_bench", Console(stderr=True))
        self._watchdog = watchdog
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self._errors.console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None)
        self._complaints: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether there was no room for all results."""
        return self._results.is_full

    def begin(self, setup: Setup, num_steps: int) -> None:
        for line in describe(setup):
            self._results.say(line)
        self._bar.update(self._task, total=num_steps)
        self._bar.start()

    def now(self, what: str) -> None:
        self._watchdog.feed(what)
        self._bar.update(self._task, description=escape(what))

    def fed(self) -> None:
        """There is progress inside a step."""
        self._watchdog.feed()

    def advance(self) -> None:
        self._watchdog.feed()
        self._bar.advance(self._task)

    def complain(self, text: str) -> None:
        self._errors.say(text, style="bold red")

    def say(self, lines: Sequence[str]) -> None:
        """Results in words."""
        self._bar.stop()
        for line in lines:
            self._results.say(line)

    def show(self, rows: Sequence[Row], *, verbose: bool) -> None:
        """The table, and what all its rows have in common."""
        self._bar.stop()
        if not rows:
            return
        common = constants_of(rows)
        self._results.say(", ".join(f"{name} {value}" for name, value in common.items()))
        columns, left_out = fitting(rows, columns_for(rows, verbose=verbose), self._results.console)
        if left_out:
            self._results.say(f"left out for want of room: {', '.join(left_out)}; files have all")
        self._results.show(table_of(rows, columns))

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Nobody:
    """The audience of the other ranks, whose screen is rank 0's."""

    def begin(self, setup: Setup, num_steps: int) -> None:
        pass

    def now(self, what: str) -> None:
        pass

    def fed(self) -> None:
        pass

    def advance(self) -> None:
        pass

    def complain(self, text: str) -> None:
        pass


def describe(setup: Setup) -> list[str]:
    """What runs on what, for people."""
    hosts = "" if setup.nodes == 1 else f" on {setup.nodes} hosts"
    lines = [f"{setup.ranks} ranks{hosts}, LSA teams of {setup.lsa_team_size}: {setup.description}"]
    lines.append(", ".join(f"{name} {version}" for name, version in setup.versions.items()))
    for sms, gbps in setup.ceilings.items():
        means = f" with {sms} SMs" if sms else ""
        lines.append(f"links: a bare push of rows{means} reaches {gbps:.0f} GB/s per rank")
    return lines + [f"note: {note}" for note in setup.notes]


def fitting(
    rows: Sequence[Row], columns: Sequence[Column], console: Console
) -> tuple[list[Column], list[str]]:
    """The columns that there is room for, and the titles of the others, what is needed least first. Those
    that tell rows apart stay, room or not."""
    kept, left_out = list(columns), []
    boundless = console.options.update(width=_BOUNDLESS)
    for name in NEEDED_LEAST:
        if console.measure(table_of(rows, kept), options=boundless).maximum <= console.width:
            break
        left_out += [column.title for column in kept if column.name == name]
        kept = [column for column in kept if column.name != name]
    return kept, left_out


def table_of(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """The rows as a table for the screen."""
    table = Table(header_style="bold", pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.name in _LEFT else "right"
        widest = max(cell_len(text) for text in (column.title, *map(column.text, rows)))
        table.add_column(column.title, justify=justify, no_wrap=True, min_width=widest)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends_case = following is None or (row.layout, row.tokens) != (following.layout, following.tokens)
        cells = [column.text(row) for column in columns]
        table.add_row(*cells, style=None if row.verified else "bold red", end_section=ends_case)
    return table

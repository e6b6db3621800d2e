# SPDX-License-Identifier: Apache-2.0
"""The end of a run on rank 0: files, pictures, the table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ep_bench.exits import Exit
from ep_bench.kill import Aftermath
from ep_bench.options import Options
from ep_bench.report.files import write_csv, write_json
from ep_bench.report.plot import write_plot
from ep_bench.report.screen import Screen
from ep_bench.rows import Row, Setup

_FILE_WIDTH = 180


def console_for(options: Options) -> Console:
    """Where tables go: stdout, unless that is taken by JSON."""
    console = Console(stderr=options.json == "-")
    return console if console.is_terminal else Console(stderr=console.stderr, width=_FILE_WIDTH)


def report(options: Options, setup: Setup, rows: Sequence[Row], screen: Screen) -> None:
    """Shows and writes everything."""
    screen.show(rows, verbose=options.verbose)
    if options.json:
        write_json(options.json, rows, verbose=options.verbose)
    if options.csv:
        write_csv(options.csv, rows, verbose=options.verbose)
    if options.plot:
        write_plot(options.plot, rows, setup)


def report_aftermath(options: Options, found: Aftermath, screen: Screen) -> Exit:
    """Shows and writes what became of the others when a rank died."""
    screen.say(found.lines())
    if options.json:
        found.write_json(options.json)
    return found.exit_code


def exit_code(has_wrong_data: bool) -> Exit:
    """Of a run that got to its end."""
    return Exit.WRONG_DATA if has_wrong_data else Exit.OK

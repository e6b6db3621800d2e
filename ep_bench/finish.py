# SPDX-License-Identifier: Apache-2.0
"""The end of a run on rank 0: files, pictures, the table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from nccl_ep._output import drop
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
    """Where tables go: stdout, unless that is taken by JSON or CSV."""
    console = Console(stderr="-" in (options.json, options.csv))
    return console if console.is_terminal else Console(stderr=console.stderr, width=_FILE_WIDTH)


def report(options: Options, setup: Setup, rows: Sequence[Row], screen: Screen) -> Exit:
    """Shows and writes everything, and says how the run ends."""
    screen.show(rows, verbose=options.verbose)
    writers: list[tuple[str, str | None, Callable[[str], None]]] = [
        ("--json", options.json, lambda target: write_json(target, rows, verbose=options.verbose)),
        ("--csv", options.csv, lambda target: write_csv(target, rows, verbose=options.verbose)),
        ("--plot", options.plot, lambda target: write_plot(target, rows, setup)),
    ]
    written = [_write(option, target, write, screen) for option, target, write in writers if target]
    return exit_code(rows) or (Exit.OK if all(written) and not screen.is_full else Exit.USAGE)


def report_incomplete(options: Options, setup: Setup, rows: Sequence[Row], screen: Screen) -> None:
    """The same for a run that does not get to its end: what was measured until then, if anything was."""
    if rows:
        screen.say(["incomplete: the run ended early, behind these measurements"])
        report(options, setup, rows, screen)


def report_aftermath(options: Options, found: Aftermath, screen: Screen) -> Exit:
    """Shows and writes what became of the others when a rank died."""
    screen.say(found.lines())
    written = not options.json or _write("--json", options.json, found.write_json, screen)
    return found.exit_code or (Exit.OK if written and not screen.is_full else Exit.USAGE)


def exit_code(rows: Sequence[Row]) -> Exit:
    """Of a run that got to its end with these rows."""
    return Exit.OK if all(row.verified for row in rows) else Exit.WRONG_DATA


def _write(option: str, target: str, write: Callable[[str], None], screen: Screen) -> bool:
    """Whether that could be done, after all that was measured; if not, the reason is shown."""
    try:
        write(target)
    except OSError as error:
        if target == "-":
            drop(sys.stdout)
        screen.complain(f"ep_bench: {option} {target}: {error.strerror or error}")
        return False
    return True

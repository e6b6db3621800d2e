# SPDX-License-Identifier: Apache-2.0
"""``python -m nccl_ep.jit warmup|list|clear|headers``."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nccl_ep import jit
from nccl_ep.errors import Error, SystemFailure

ACROSS_TEAMS = {
    jit.Groups.MASKED: jit.Groups.MASKED_TEAMS,
    jit.Groups.EXACT: jit.Groups.EXACT_TEAMS,
}
"""The same groups with ranks in several LSA teams."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m nccl_ep.jit", description=jit.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warm = commands.add_parser("warmup", help="compile every kernel that is not kept yet")
    warm.add_argument("--arch", help="sm_90a,sm_100a,...; default: the architectures of the visible GPUs")
    warm.add_argument(
        "--across-teams",
        choices=("auto", "yes", "no"),
        default="auto",
        help="kernels of groups across several LSA teams, which need more headers; auto: if these are found",
    )
    warm.add_argument("--masks", action="store_true", help="kernels of groups with rank masks, too")
    warm.add_argument("--exact", action="store_true", help="kernels of groups with exact_combine, too")
    commands.add_parser("list", help="show the kept kernels")
    commands.add_parser("clear", help="remove the kept kernels")
    headers = commands.add_parser(
        "headers", help="write the headers of kernels that use the network, and print NVRTC's options"
    )
    headers.add_argument("folder")
    options = parser.parse_args(arguments)

    console = Console()
    try:
        if options.command == "warmup":
            archs = options.arch.split(",") if options.arch is not None else None
            more = [jit.Groups.MASKED] * options.masks + [jit.Groups.EXACT] * options.exact
            _warmup(console, archs, options.across_teams, more)
        elif options.command == "list":
            _list(console)
        elif options.command == "headers":
            for option in jit.network_headers(options.folder):
                console.print(option, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"removed {jit.clear()} kernels")
    except (Error, FileNotFoundError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def _warmup(console: Console, archs: list[str] | None, across_teams: str, more: list[jit.Groups]) -> None:
    start = time.monotonic()
    ready = _compile(console, archs, jit.Groups.ONE_TEAM)
    for groups in more:
        ready += _compile(console, archs, groups)
    if across_teams == "yes" or (across_teams == "auto" and _headers_are_found(console)):
        for groups in (jit.Groups.SEVERAL_TEAMS, *(ACROSS_TEAMS[inside] for inside in more)):
            ready += _compile(console, archs, groups)
    compiled = sum(not kernel.was_cached for kernel in ready)
    console.print(
        f"{len(ready)} kernels ready, {compiled} of them compiled, in {time.monotonic() - start:.1f} s"
    )


def _headers_are_found(console: Console) -> bool:
    """Whether kernels of groups across LSA teams can be compiled; says what is missing otherwise."""
    try:
        jit.network_headers(None)
    except SystemFailure as failure:
        text = f"kernels of groups across LSA teams are left out: {failure}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return False
    return True


def _compile(console: Console, archs: list[str] | None, groups: jit.Groups) -> list[jit.Kernel]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("compiling", total=None)

        def show(kernel: jit.Kernel) -> None:
            progress.update(task, completed=kernel.index + 1, total=kernel.count)
            state = "kept" if kernel.was_cached else "compiled"
            progress.console.print(f"{kernel.name} {kernel.arch}: {state}, {kernel.num_bytes / 1024:.0f} KiB")

        return jit.warmup(archs, show, groups=groups)


def _list(console: Console) -> None:
    table = Table("kernel", "architecture", "KiB", "file")
    for kernel in jit.kernels():
        table.add_row(kernel.name, kernel.arch, f"{kernel.num_bytes / 1024:.0f}", str(kernel.file))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

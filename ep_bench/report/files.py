# SPDX-License-Identifier: Apache-2.0
"""Rows as JSON and CSV, and where files may be written."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ep_bench.exits import UsageError
from ep_bench.rows import Row


def check_targets(targets: Mapping[str, str | None]) -> None:
    """UsageError if what options name is not a file for each that can be written; ``-`` is standard output.

    Options that were not given have None.
    """
    taken: dict[str, str] = {}
    for option, target in targets.items():
        if target is None:
            continue
        if not target:
            raise UsageError(f"{option} '': expected the name of a file")
        place = target if target == "-" else str(Path(target).resolve())
        if place in taken:
            raise UsageError(f"{option} {target}: expected another file than that of {taken[place]}")
        taken[place] = option
        if target != "-":
            check_target(option, target)


def check_target(option: str, target: str) -> None:
    """UsageError if a file cannot be written there, as far as can be seen without making it."""
    path = Path(target)
    if path.is_dir():
        raise UsageError(f"{option} {target}: is a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {target}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {target}: may not be written")


def write_json(target: str, rows: Sequence[Row], *, verbose: bool) -> None:
    """A list of objects, to a file or ``-``, standard output."""
    text = json.dumps([row.as_dict(verbose=verbose) for row in rows], indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(target).write_text(text)


def write_csv(target: str, rows: Sequence[Row], *, verbose: bool) -> None:
    """A line a row below a line of names, to a file or ``-``; what is not known is empty."""
    if target == "-":
        _fill_csv(sys.stdout, rows, verbose=verbose)
        sys.stdout.flush()
    else:
        with open(target, "w", newline="") as file:
            _fill_csv(file, rows, verbose=verbose)


def _fill_csv(file: TextIO, rows: Sequence[Row], *, verbose: bool) -> None:
    if rows:
        writer = csv.DictWriter(file, rows[0].as_dict(verbose=verbose))
        writer.writeheader()
        writer.writerows(row.as_dict(verbose=verbose) for row in rows)

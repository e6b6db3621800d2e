# SPDX-License-Identifier: Apache-2.0
"""Rows as JSON and CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ep_bench.rows import Row


def write_json(target: str, rows: Sequence[Row], *, verbose: bool) -> None:
    """A list of objects, to a file or ``-``, standard output."""
    text = json.dumps([row.as_dict(verbose=verbose) for row in rows], indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(target).write_text(text)


def write_csv(target: str, rows: Sequence[Row], *, verbose: bool) -> None:
    """A line a row below a line of names; what is not known is empty."""
    with open(target, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, rows[0].as_dict(verbose=verbose))
            writer.writeheader()
            writer.writerows(row.as_dict(verbose=verbose) for row in rows)

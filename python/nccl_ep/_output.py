# SPDX-License-Identifier: Apache-2.0
"""What this package's commands print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console


class Output:
    """Results on a stream that may be full, or that nobody reads any more. What comes then goes nowhere.

    Args:
        command: who says that the stream is full.
        console: of the stream.

    Attributes:
        is_full: not everything could be written, and standard error says so.
    """

    def __init__(self, command: str, console: Console) -> None:
        self.console = console
        self.is_full = False
        self._command = command
        self._is_open = True
        console.on_broken_pipe = _raise  # type: ignore[method-assign]

    def say(self, line: str, style: str | None = None) -> None:
        """A line as it is, however long."""
        self._try(lambda: self.console.out(line, style=style, highlight=False))

    def show(self, table: Any) -> None:
        """A table, all of it, even if it is wider than the stream's lines."""
        self._try(lambda: self.console.print(table, crop=False))

    def _try(self, write: Callable[[], None]) -> None:
        if not self._is_open:
            return
        try:
            write()
        except OSError as error:
            self._is_open = False
            drop(self.console.file)
            if not isinstance(error, BrokenPipeError):
                self.is_full = True
                self._say_that_it_is_full(error)

    def _say_that_it_is_full(self, error: OSError) -> None:
        stream = "error" if self.console.stderr else "output"
        with suppress(OSError):
            print(f"{self._command}: standard {stream} cannot be written: {error.strerror}", file=sys.stderr)


def drop(stream: Any) -> None:
    """Has what Python still holds for a stream that cannot be written go nowhere: it would fail at exit."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _raise() -> None:
    """In place of rich's way with a broken pipe, which is to end the thread."""
    raise

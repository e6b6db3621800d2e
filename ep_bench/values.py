# SPDX-License-Identifier: Apache-2.0
"""Values on the command line, read for argparse: what cannot be one is refused with what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ep_bench.exits import UsageError

Value = TypeVar("Value")

MOST_SECONDS = 1e6
MOST = 2**31 - 1
MOST_64_BITS = 2**64 - 1
"""Of numbers on the command line: fields of the C API have 32 bits, but for a few that have 64."""


def list_of(item: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    return lambda text: tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))


def number(least: int, most: int = MOST) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too small, expected at least {least}")
        if number > most:
            raise argparse.ArgumentTypeError(f"{number} is too large, expected at most {most}")
        return number

    return read


def one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown, expected {', '.join(names)}")
        return text

    return read


def switch(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def seconds_of(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected seconds, more than 0 and at most {MOST_SECONDS:,.0f}"
        )
    return seconds


def as_read_by(reader: Callable[[str], Value]) -> Callable[[str], Value]:
    """What another file reads, whose UsageError becomes argparse's."""

    def read(text: str) -> Value:
        try:
            return reader(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def library_path(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file, expected a libnccl_ep.so.0")
    return path.resolve()


def picture(text: str) -> str:
    """The name of a file that rows are drawn into, for argparse."""
    if not text.endswith((".png", ".svg", ".html")):
        raise argparse.ArgumentTypeError(f"{text}: expected a name that ends in .png, .svg or .html")
    return text

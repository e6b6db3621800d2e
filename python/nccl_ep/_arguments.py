# SPDX-License-Identifier: Apache-2.0
"""Values on the command lines of this package's modules, for argparse."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a positive number")
    return int(text)

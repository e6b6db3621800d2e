# SPDX-License-Identifier: Apache-2.0
"""Finds shared libraries where ``libnccl_ep.so.0`` itself looks for them, so that both use the same ones."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from nccl_ep import paths

from ep_bench.exits import UsageError

_LEVELS_UP = 4


def open_library(what: str, sonames: Iterable[str], wheel_folders: Iterable[str], remedy: str) -> ctypes.CDLL:
    """A library that is loaded already, that a wheel installed beside nccl_ep has, or that the system finds.

    Raises:
        UsageError: there is none.
    """
    sonames = tuple(sonames)
    for soname in sonames:
        try:
            return ctypes.CDLL(soname, mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
        except OSError:
            pass
    failures = []
    for candidate in (*_in_wheels(sonames, tuple(wheel_folders)), *sonames):
        try:
            return ctypes.CDLL(candidate, mode=os.RTLD_LAZY)
        except OSError as error:
            failures.append(str(error))
    raise UsageError(f"{what} was not found: {remedy}. Tried: {'; '.join(failures)}")


def _in_wheels(sonames: tuple[str, ...], wheel_folders: tuple[str, ...]) -> list[str]:
    above = list(paths.library_dir().resolve().parents)[:_LEVELS_UP]
    files = [Path(folder, wheel, soname) for folder in above for wheel in wheel_folders for soname in sonames]
    return [str(file) for file in files if file.is_file()]

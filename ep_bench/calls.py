# SPDX-License-Identifier: Apache-2.0
"""Calls into a library with everything prepared, so that measuring adds as little as Python can add."""

from __future__ import annotations

from typing import Any

import nccl_ep


class Call:
    """One C function with its arguments. Objects behind C pointers are kept in ``keep_alive``."""

    __slots__ = ("_args", "_function", "_group", "_keep_alive")

    def __init__(self, group: nccl_ep.Group, function: Any, args: tuple[Any, ...], keep_alive: Any) -> None:
        self._group = group
        self._function = function
        self._args = args
        self._keep_alive = keep_alive

    def __call__(self) -> None:
        result = self._function(*self._args)
        if result:
            self._group.check(result)

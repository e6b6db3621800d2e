# SPDX-License-Identifier: Apache-2.0
"""What the library offers beside ``nccl_ep.h``, a header at a time, through cffi."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cffi

from nccl_ep import _paths as paths
from nccl_ep._declarations import read_declarations
from nccl_ep.errors import error_of


class Extension:
    """The functions of one header; the library is loaded with it.

    Args:
        header: its name, such as ``nccl_ep_jit.h``.
    """

    def __init__(self, header: str) -> None:
        self.ffi: Any = cffi.FFI()
        include = paths.include_dir()
        macros = {"NCCL_EP_OWN_TYPES": "1", "__STDC_VERSION__": "201112L"}
        self.ffi.cdef(read_declarations([include / header], include, macros).source)
        self.c: Any = self.ffi.dlopen(str(paths.library()))

    def check(self, result: int) -> None:
        """Raises the exception for a result code."""
        if result:
            message = self.ffi.string(self.c.ncclEpGetLastError(self.ffi.NULL))
            raise error_of(result, message.decode(errors="replace"))

    def visit(self, kind: str, on_visit: Callable[..., None], call: Callable[[Any], int]) -> None:
        """Makes a call that takes a visitor. What the visitor raises is raised here, once the call is over.

        Args:
            kind: the C type of the visitor.
            on_visit: what it does, with its C arguments.
            call: is given the visitor, and returns the result code.
        """
        raised: list[BaseException] = []

        def on_error(_type: Any, error: BaseException, _traceback: Any) -> None:
            raised.append(error)

        self.check(call(self.ffi.callback(kind, on_visit, onerror=on_error)))
        if raised:
            raise raised[0]


@cache
def extension(header: str) -> Extension:
    """The extension of a header, loaded on first use."""
    return Extension(header)

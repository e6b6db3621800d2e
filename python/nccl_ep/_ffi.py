# SPDX-License-Identifier: Apache-2.0
"""The C API through cffi, with declarations read from the installed ``nccl_ep.h``. Nothing here is compiled.

cffi releases the GIL in every call, so ranks can be threads of one process and one rank's wait stops no
other.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cffi

from nccl_ep import _paths as paths
from nccl_ep._declarations import read_declarations
from nccl_ep.errors import Error, error_of

ffi: Any = cffi.FFI()
NULL = ffi.NULL

# The header brings its own CUDA and NCCL types, so neither toolkit's headers are needed.
_declarations = read_declarations(
    [paths.include_dir() / "nccl_ep.h"],
    paths.include_dir(),
    {"NCCL_EP_OWN_TYPES": "1", "__STDC_VERSION__": "201112L"},
)
ffi.cdef(_declarations.source)
constants = _declarations.constants
# The collector may run while cffi parses a type or looks up a function, which it does under a lock. So what
# finalizers use is found now.
_ADDRESS = ffi.typeof("uintptr_t")


def address_of(pointer: Any) -> int:
    """The address in a C pointer."""
    return int(ffi.cast(_ADDRESS, pointer))


class Library:
    """One loaded ``libnccl_ep.so.0``. Several can be open at once, for instance to compare two builds.

    Args:
        path: the shared library; default: the one inside this package.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else paths.library()
        self.c: Any = ffi.dlopen(str(self.path))
        self.destroy_handle = self.c.ncclEpHandleDestroy
        self._get_last_error = getattr(self.c, "ncclEpGetLastError", None)

    def check(self, result: int, group: Any = NULL) -> None:
        """Raises the exception for a result code; ``group`` is the C group whose message explains it."""
        if result:
            raise self.error(result, group)

    def error(self, result: int, group: Any = NULL) -> Error:
        """The exception for a result code other than 0, with the message that the library has for it."""
        return error_of(result, self._last_message(group))

    def version(self) -> tuple[int, int, int]:
        """Major, minor and patch number of the loaded library."""
        code = ffi.new("int*")
        self.check(self.c.ncclEpGetVersion(code))
        return code[0] // 10000, code[0] // 100 % 100, code[0] % 100

    def _last_message(self, group: Any) -> str:
        if self._get_last_error is None:  # another implementation of the same API
            return f"{self.path.name} gives no reason"
        message = self._get_last_error(group)
        return ffi.string(message).decode(errors="replace") if message else ""

    def __repr__(self) -> str:
        return f"<nccl_ep.Library {self.path}>"


@cache
def default_library() -> Library:
    """The library inside this package, loaded on first use."""
    return Library()

# SPDX-License-Identifier: Apache-2.0
"""The simulator's C API through cffi, read from the installed ``nccl_ep_sim.h``; loaded on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import cffi

import nccl_ep._ffi as _base
from nccl_ep import paths
from nccl_ep._declarations import read_declarations
from nccl_ep.errors import error_of

ffi: Any = cffi.FFI()
ffi.include(_base.ffi)  # which has the CUDA and NCCL types already, hence their guard below
_declarations = read_declarations(
    [paths.include_dir() / "nccl_ep_sim.h"],
    paths.include_dir(),
    {"NCCL_EP_OWN_TYPES": "1", "NCCL_EP_OWN_TYPES_H_": "1", "__STDC_VERSION__": "201112L"},
)
ffi.cdef(_declarations.source)
constants = _declarations.constants
NULL = ffi.NULL

kInProgress = 7


@cache
def library() -> Any:
    """The simulator, loaded."""
    return ffi.dlopen(str(paths.sim_library()))


def check(result: int) -> None:
    """Raises the exception for a result code of the simulator."""
    if result:
        message = library().ncclEpSimGetLastError()
        raise error_of(result, ffi.string(message).decode(errors="replace"))


def numbers_of(struct: Any) -> dict[str, int]:
    """The fields of a C struct of numbers."""
    return {name: int(getattr(struct, name)) for name, _ in ffi.typeof(struct).fields}

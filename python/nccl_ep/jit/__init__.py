# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels: making them ahead of time, and looking after the folder they are kept in.

Groups compile what is missing when they are created. ``python -m nccl_ep.jit warmup --arch sm_90a`` does so
before, on any machine with NVRTC (``pip install nvidia-cuda-nvrtc``), so that images and shared home folders
start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from nccl_ep._extensions import Extension, extension

__all__ = ["Groups", "Kernel", "clear", "kernels", "network_headers", "warmup"]


class Groups(IntEnum):
    """The groups that kernels are for: inside one LSA team or across several, without or with rank masks.

    EXACT and EXACT_TEAMS are what groups with ``exact_combine`` use besides, without or with masks.
    """

    ONE_TEAM = 0
    SEVERAL_TEAMS = 1
    MASKED = 2
    EXACT = 3
    MASKED_TEAMS = 4
    EXACT_TEAMS = 5


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Attributes:
        name: the variant, such as ``ll_dispatch_rank_major``.
        arch: the GPU architecture, such as ``sm_90a``.
        file: where it is kept; None when it is not.
        num_bytes: size of the binary.
        was_cached: nothing had to be compiled.
        index: among ``count`` kernels of the call.
        count: see ``index``.
    """

    name: str
    arch: str
    file: Path | None
    num_bytes: int
    was_cached: bool
    index: int
    count: int


def warmup(
    archs: str | Sequence[str] | None = None,
    visit: Callable[[Kernel], None] = lambda _: None,
    *,
    groups: Groups = Groups.ONE_TEAM,
) -> list[Kernel]:
    """Compiles every kernel of some groups that is not kept yet.

    Args:
        archs: architectures to compile for, such as ``"sm_90a"`` or a list of them; default: those of the
            visible GPUs.
        visit: called with each kernel once it is ready.
        groups: those that the kernels are for.

    Returns:
        All kernels.

    Raises:
        InternalError: a kernel does not compile; the message has the compiler's log.
        SystemFailure: NVRTC, the kernel sources, the folder or, across teams, the headers of CUDA, libcu++ or
            NCCL cannot be used; the message says which and why.
    """
    names = [archs] if isinstance(archs, str) else archs
    joined = _jit().ffi.NULL if names is None else ",".join(names).encode()
    return _visited(lambda visitor: _jit().c.ncclEpJitWarmup(joined, groups, visitor, _jit().ffi.NULL), visit)


def kernels() -> list[Kernel]:
    """What is kept, sorted by name."""
    return _visited(lambda visitor: _jit().c.ncclEpJitList(visitor, _jit().ffi.NULL), lambda _: None)


def clear() -> int:
    """Removes all kept kernels and returns how many there were."""
    removed = _jit().ffi.new("size_t*")
    _jit().check(_jit().c.ncclEpJitClear(removed))
    return int(removed[0])


def network_headers(folder: str | Path | None) -> list[str]:
    """Writes the headers that kernels using the network are compiled with.

    They are NCCL's, changed where NVRTC would not take them as they are, and stand-ins for the C library's.

    Args:
        folder: where to; made if it is missing. None: they are looked for, and not written.

    Returns:
        The options that NVRTC needs to use them; none without ``folder``.

    Raises:
        SystemFailure: NVRTC, libcu++ or the headers of CUDA or NCCL are missing; the message says which.
    """
    ffi = _jit().ffi
    options: list[str] = []
    path = ffi.NULL if folder is None else str(folder).encode()

    def on_option(option: Any, _context: Any) -> None:
        options.append(ffi.string(option).decode())

    _jit().visit(
        "ncclEpJitOption_t",
        on_option,
        lambda visitor: _jit().c.ncclEpJitNetworkHeaders(path, visitor, ffi.NULL),
    )
    return options


def _jit() -> Extension:
    return extension("nccl_ep_jit.h")


def _visited(call: Callable[[Any], int], visit: Callable[[Kernel], None]) -> list[Kernel]:
    seen: list[Kernel] = []

    def on_kernel(kernel: Any, _context: Any) -> None:
        seen.append(_kernel(kernel))
        visit(seen[-1])

    _jit().visit("ncclEpJitVisitor_t", on_kernel, call)
    return seen


def _kernel(kernel: Any) -> Kernel:
    name, arch, file = (_jit().ffi.string(text).decode() for text in (kernel.name, kernel.arch, kernel.file))
    return Kernel(
        name=name,
        arch=arch,
        file=Path(file) if file else None,
        num_bytes=int(kernel.bytes),
        was_cached=bool(kernel.was_cached),
        index=int(kernel.index),
        count=int(kernel.count),
    )

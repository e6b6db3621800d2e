# SPDX-License-Identifier: Apache-2.0
"""The little of NCCL that measuring needs, through ctypes: communicators, windows, and a barrier."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from ep_bench.devices.driver import Pointer
from ep_bench.devices.shared_library import open_library

_UNIQUE_ID_BYTES = 128
_SYMMETRIC_WINDOW = 1
_INT32, _SUM = 2, 0
_MAGIC, _LAYOUT_VERSION = 0xCAFEBEEF, 23007


class NcclError(Exception):
    """A call into NCCL failed."""


class _UniqueId(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * _UNIQUE_ID_BYTES)]


class _Properties(ctypes.Structure):
    """``ncclCommProperties`` as NCCL 2.30.7 has it; ``version`` says so."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("rank", ctypes.c_int),
        ("num_ranks", ctypes.c_int),
        ("cuda_device", ctypes.c_int),
        ("nvml_device", ctypes.c_int),
        ("has_device_api", ctypes.c_bool),
        ("has_multimem", ctypes.c_bool),
        ("gin_type", ctypes.c_int),
        ("num_lsa_teams", ctypes.c_int),
        ("has_host_rma", ctypes.c_bool),
        ("railed_gin_type", ctypes.c_int),
    ]


@cache
def _nccl() -> ctypes.CDLL:
    remedy = "pip install nvidia-nccl-cu13 (or -cu12), or put its folder in LD_LIBRARY_PATH"
    library = open_library("NCCL", ["libnccl.so.2"], ["nvidia/nccl/lib"], remedy)
    library.ncclGetErrorString.restype = ctypes.c_char_p
    library.ncclGetLastError.restype = ctypes.c_char_p
    return library


def call(name: str, *args: Any) -> None:
    """Calls a function of NCCL."""
    result = getattr(_nccl(), name)(*args)
    if result:
        text, last = _nccl().ncclGetErrorString(result), _nccl().ncclGetLastError(None)
        raise NcclError(f"{name}: {(text or b'').decode()}: {(last or b'').decode()}")


def version() -> str:
    """Of the loaded NCCL."""
    code = _version_code()
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"


def _version_code() -> int:
    code = ctypes.c_int()
    call("ncclGetVersion", ctypes.byref(code))
    return code.value


def make_unique_id() -> str:
    """What ranks need to find one another, as text."""
    unique_id = _UniqueId()
    call("ncclGetUniqueId", ctypes.byref(unique_id))
    return bytes(unique_id).hex()


class Communicator:
    """A communicator. Making and closing it is collective. ``ptr`` is its ``ncclComm_t``."""

    def __init__(self, unique_id: str, rank: int, num_ranks: int) -> None:
        self.c = Pointer()
        raw = _UniqueId.from_buffer_copy(bytes.fromhex(unique_id))
        call("ncclCommInitRank", ctypes.byref(self.c), num_ranks, raw, rank)
        self.ptr = self.c.value or 0
        self.rank, self.num_ranks = rank, num_ranks

    def close(self) -> None:
        call("ncclCommDestroy", self.c)

    def lsa_team_size(self) -> int:
        """Ranks that reach each other's memory with loads and stores."""

        properties = _Properties(ctypes.sizeof(_Properties), _MAGIC, min(_version_code(), _LAYOUT_VERSION))
        call("ncclCommQueryProperties", self.c, ctypes.byref(properties))
        return self.num_ranks // max(1, int(properties.num_lsa_teams))


class Window:
    """Symmetric memory. Making and closing it is collective.

    Attributes:
        ptr: where it is on this rank.
        handle: the ``ncclWindow_t``.
    """

    def __init__(self, communicator: Communicator, num_bytes: int) -> None:
        self._communicator = communicator
        self._memory, self._window = Pointer(), Pointer()
        size = ctypes.c_size_t(num_bytes)
        call("ncclMemAlloc", ctypes.byref(self._memory), size)
        call(
            "ncclCommWindowRegister", communicator.c, self._memory, size, ctypes.byref(self._window),
            _SYMMETRIC_WINDOW,
        )  # fmt: skip
        if not self._window.value:
            raise NcclError("ncclCommWindowRegister: this communicator has no symmetric memory")
        self.ptr, self.handle = self._memory.value or 0, self._window.value

    def peer_address(self, lsa_rank: int) -> int:
        """Where a peer's part of the window is for this rank's kernels."""
        address = Pointer()
        call("ncclGetLsaDevicePointer", self._window, ctypes.c_size_t(0), lsa_rank, ctypes.byref(address))
        return address.value or 0

    def close(self) -> None:
        call("ncclCommWindowDeregister", self._communicator.c, self._window)
        call("ncclMemFree", self._memory)


class Barrier:
    """Lets a stream wait for all ranks' streams."""

    def __init__(self, communicator: Communicator, word: int, stream: int) -> None:
        self._function = _nccl().ncclAllReduce
        memory = Pointer(word)
        self._args = (memory, memory, ctypes.c_size_t(1), _INT32, _SUM, communicator.c, Pointer(stream))

    def enqueue(self) -> None:
        if self._function(*self._args):
            call("ncclAllReduce", *self._args)

# SPDX-License-Identifier: Apache-2.0
"""NCCL's network (GIN) on real GPUs, through ctypes: what kernels that use it need from the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from cuda_cluster import CudaRank, nccl

API_MAGIC = 0xCAFEBEEF
UNDEFINED = -(2**31)
CONNECTION_FULL = 1
RUNTIME_LAYOUT_SINCE = 23100
DEV_COMM_BYTES = 4096  # enough for every version so far: 248 in 2.32.3


class _Requirements(ctypes.Structure):
    """ncclDevCommRequirements of 2.31.2; in 2.30 it ends before ginCustomStride."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("resourceRequirementsList", ctypes.c_void_p),
        ("teamRequirementsList", ctypes.c_void_p),
        ("lsaMultimem", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("barrierCount", "lsaBarrierCount", "railGinBarrierCount")),
        *((name, ctypes.c_int) for name in ("lsaLLA2ABlockCount", "lsaLLA2ASlotCount")),
        ("ginForceEnable", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("ginContextCount", "ginSignalCount", "ginCounterCount")),
        ("ginConnectionType", ctypes.c_int),
        ("ginExclusiveContexts", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("ginQueueDepth", "ginTrafficClass", "worldGinBarrierCount")),
        *((name, ctypes.c_bool) for name in ("ginStrongSignalsRequired", "ginVaSignalsRequired")),
        *((name, ctypes.c_int) for name in ("ginCustomStride", "ginType")),
        ("useRuntimeVersion", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("cftCaps", "cftBarrierCount")),
    ]


def gin_type(rank: CudaRank) -> int:
    """2 for the proxy, 3 for GDAKI, 0 for none."""
    properties = np.zeros(64, np.int64)
    header = properties.view(np.uint32)
    header[2], header[3] = API_MAGIC, 23007
    address = ctypes.c_void_p(properties.ctypes.data)
    _check(rank, nccl().ncclCommQueryProperties(ctypes.c_void_p(rank.comm), address))
    return int(properties.view(np.int32)[9])


@contextmanager
def device_communicator(rank: CudaRank, contexts: int, signals: int, counters: int) -> Iterator[int]:
    """The device address of an ncclDevComm that connects every rank with every other one. Collective."""
    version = ctypes.c_int()
    _check(rank, nccl().ncclGetVersion(ctypes.byref(version)))
    needed = _Requirements(
        size=ctypes.sizeof(_Requirements),
        magic=API_MAGIC,
        version=version.value,
        ginContextCount=contexts,
        ginSignalCount=signals,
        ginCounterCount=counters,
        ginConnectionType=CONNECTION_FULL,
        ginTrafficClass=UNDEFINED,
        ginStrongSignalsRequired=True,
        ginVaSignalsRequired=True,
        ginCustomStride=1,
        useRuntimeVersion=True,
    )
    if version.value < RUNTIME_LAYOUT_SINCE:
        needed.size = _Requirements.ginCustomStride.offset
    else:
        needed.version = 23102
    comm = ctypes.c_void_p(rank.comm)
    made = np.zeros(DEV_COMM_BYTES, np.uint8)
    address = ctypes.c_void_p(made.ctypes.data)
    _check(rank, nccl().ncclDevCommCreate(comm, ctypes.byref(needed), address))
    try:
        yield rank.array(made).ptr
    finally:
        _check(rank, nccl().ncclDevCommDestroy(comm, address))


def _check(rank: CudaRank, result: int) -> None:
    if result:
        nccl().ncclGetLastError.restype = ctypes.c_char_p
        raise RuntimeError(f"NCCL: {nccl().ncclGetLastError(ctypes.c_void_p(rank.comm)).decode()} ({result})")

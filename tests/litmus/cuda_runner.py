# SPDX-License-Identifier: Apache-2.0
"""Litmus programs on real GPUs: compiled by NVRTC, launched through the CUDA driver; nothing else is needed.

Ranks are GPUs of this process that see each other's memory at one base address plus a stride a rank. With
fewer GPUs than ranks, several ranks share a GPU, each on a stream of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import nvrtc
from contract import WORDS, judge, pack_args
from cuda_cluster import cuda, num_gpus
from nccl_ep import paths
from programs import Outcome, Program

Pointer = ctypes.c_void_p
Size = ctypes.c_size_t

COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
MAX_DYNAMIC_SHARED_BYTES = 8
STREAM_NON_BLOCKING = 1


class Runner:
    """All programs of a source file, loaded on every GPU."""

    def __init__(self, source: Path, includes: Sequence[Path]) -> None:
        self._contexts = [_primary_context(device) for device in range(num_gpus())]
        binary = compile_kernels(source, [*includes, paths.template_dir()])
        self._modules = []
        for context in self._contexts:
            _call("cuCtxSetCurrent", context)
            module = Pointer()
            _call("cuModuleLoadData", ctypes.byref(module), binary)
            self._modules.append(module)

    def run(self, program: Program, seed: int) -> tuple[Outcome, str]:
        """How the program ended. The seed means nothing here: each run is a run."""
        with _SharedMemory(program.ranks, len(self._contexts)) as memory:
            verdicts, streams = [], []
            for rank in range(program.ranks):
                _call("cuCtxSetCurrent", self._contexts[rank % len(self._contexts)])
                verdicts.append(_zeroed(8 * program.blocks * program.threads))
                stream = Pointer()
                _call("cuStreamCreate", ctypes.byref(stream), STREAM_NON_BLOCKING)
                streams.append(stream)
            for name in filter(None, (program.after, program.name)):
                for rank in range(program.ranks):
                    args = pack_args(memory.base, memory.stride, verdicts[rank], rank, program.ranks)
                    self._launch(program, name, rank, args, streams[rank])
            results = []
            for rank in range(program.ranks):
                _call("cuCtxSetCurrent", self._contexts[rank % len(self._contexts)])
                _call("cuStreamSynchronize", streams[rank])
                _call("cuStreamDestroy_v2", streams[rank])
                result = np.empty((program.blocks * program.threads, 2), np.uint32)
                _call(
                    "cuMemcpyDtoH_v2",
                    Pointer(result.ctypes.data),
                    Pointer(verdicts[rank]),
                    Size(result.nbytes),
                )
                _call("cuMemFree_v2", Pointer(verdicts[rank]))
                results.append(result)
        return judge(results)

    def _launch(self, program: Program, name: str, rank: int, args: bytes, stream: Pointer) -> None:
        gpu = rank % len(self._contexts)
        _call("cuCtxSetCurrent", self._contexts[gpu])
        function = Pointer()
        _call("cuModuleGetFunction", ctypes.byref(function), self._modules[gpu], f"litmus_{name}".encode())
        _call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_BYTES, program.shared_bytes)
        buffer = ctypes.create_string_buffer(args, len(args))
        parameters = (Pointer * 1)(ctypes.addressof(buffer))
        shape = (program.blocks, 1, 1, program.threads, 1, 1, program.shared_bytes)
        _call("cuLaunchKernel", function, *shape, stream, parameters, None)


def compile_kernels(source: Path, includes: Sequence[Path], more_options: Sequence[str] = ()) -> bytes:
    """The binary of a source file for this machine's GPUs."""
    device = ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(device), 0)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("cuDeviceGetAttribute", ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device)
    _call("cuDeviceGetAttribute", ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device)
    options = [
        f"-arch=sm_{major.value}{minor.value}a",
        "-std=c++17",
        "-default-device",
        "-fmad=false",
        "-lineinfo",
    ]
    options += [*(f"-I{folder}" for folder in includes), *more_options]
    return nvrtc.compile_source(source.read_text(), options).binary


class _AllocationProperties(ctypes.Structure):
    """CUmemAllocationProp of pinned memory on a device."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location_type", ctypes.c_int),
        ("location_id", ctypes.c_int),
        ("windows_metadata", Pointer),
        ("flags", ctypes.c_uint8 * 8),
    ]


class _AccessDescription(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("location_type", ctypes.c_int), ("location_id", ctypes.c_int), ("flags", ctypes.c_int)]


class _SharedMemory:
    """Zeroed memory of every rank, mapped one after the other for all GPUs."""

    PINNED, ON_DEVICE, READ_WRITE, RECOMMENDED = 1, 1, 3, 1

    def __init__(self, num_ranks: int, gpus: int) -> None:
        properties = [
            _AllocationProperties(self.PINNED, 0, self.ON_DEVICE, rank % gpus) for rank in range(num_ranks)
        ]
        granularity = Size()
        _call(
            "cuMemGetAllocationGranularity",
            ctypes.byref(granularity),
            ctypes.byref(properties[0]),
            self.RECOMMENDED,
        )
        self.stride = (4 * WORDS + granularity.value - 1) // granularity.value * granularity.value
        self._num_ranks = num_ranks
        address = ctypes.c_uint64()
        total = Size(num_ranks * self.stride)
        _call(
            "cuMemAddressReserve",
            ctypes.byref(address),
            total,
            Size(0),
            ctypes.c_uint64(0),
            ctypes.c_ulonglong(0),
        )
        self.base = address.value
        access = (_AccessDescription * gpus)(
            *(_AccessDescription(self.ON_DEVICE, gpu, self.READ_WRITE) for gpu in range(gpus))
        )
        for rank in range(num_ranks):
            handle, at = ctypes.c_ulonglong(), ctypes.c_uint64(self.base + rank * self.stride)
            size, zero = Size(self.stride), ctypes.c_ulonglong(0)
            _call("cuMemCreate", ctypes.byref(handle), size, ctypes.byref(properties[rank]), zero)
            _call("cuMemMap", at, size, Size(0), handle, zero)
            _call("cuMemRelease", handle)
        _call("cuMemSetAccess", ctypes.c_uint64(self.base), total, access, Size(gpus))
        for rank in range(num_ranks):
            _call(
                "cuMemsetD8_v2",
                ctypes.c_uint64(self.base + rank * self.stride),
                ctypes.c_ubyte(0),
                Size(4 * WORDS),
            )
        _call("cuCtxSynchronize")

    def __enter__(self) -> _SharedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        total = Size(self._num_ranks * self.stride)
        _call("cuMemUnmap", ctypes.c_uint64(self.base), total)
        _call("cuMemAddressFree", ctypes.c_uint64(self.base), total)


def _zeroed(num_bytes: int) -> int:
    memory = Pointer()
    _call("cuMemAlloc_v2", ctypes.byref(memory), Size(num_bytes))
    _call("cuMemsetD8_v2", memory, ctypes.c_ubyte(0), Size(num_bytes))
    _call("cuCtxSynchronize")
    return memory.value or 0


def _primary_context(index: int) -> Pointer:
    device, context = ctypes.c_int(), Pointer()
    _call("cuDeviceGet", ctypes.byref(device), index)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


def _call(name: str, *args: object) -> None:
    nvrtc.check(name, getattr(cuda(), name)(*args))

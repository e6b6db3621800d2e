# SPDX-License-Identifier: Apache-2.0
"""The little of the CUDA driver API that measuring needs, through ctypes. No other package is needed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

Pointer = ctypes.c_void_p

_NON_BLOCKING_STREAM = 1
_CAPTURE_THREAD_LOCAL = 1
_RECORD_EXTERNAL = 1
_COMPUTE_CAPABILITY = (75, 76)  # major, minor
_MULTIPROCESSORS = 16
_DYNAMIC_SHARED_BYTES = 8


class CudaError(Exception):
    """A call into the driver failed."""


@cache
def _driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    result = library.cuInit(0)
    if result:
        raise CudaError(f"cuInit failed with {result}")
    return library


def call(name: str, *args: Any) -> None:
    """Calls a function of the driver. Integers that are not plain ``int`` need a ctypes type."""
    result = getattr(_driver(), name)(*args)
    if result:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(result, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({result})")


def num_gpus() -> int:
    """How many GPUs this process can use; 0 without a driver."""
    count = ctypes.c_int()
    try:
        call("cuDeviceGetCount", ctypes.byref(count))
    except (OSError, CudaError):
        return 0
    return count.value


def least_memory() -> int:
    """Bytes of the smallest GPU that this process can use."""
    sizes = []
    for index in range(num_gpus()):
        device, size = ctypes.c_int(), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        sizes.append(size.value)
    return min(sizes)


class Gpu:
    """A GPU, current in the thread that makes it."""

    def __init__(self, index: int) -> None:
        self._device, self._context = ctypes.c_int(), Pointer()
        call("cuDeviceGet", ctypes.byref(self._device), index)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        call("cuCtxSetCurrent", self._context)
        name = ctypes.create_string_buffer(100)
        call("cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode()
        major, minor = (self._attribute(number) for number in _COMPUTE_CAPABILITY)
        self.arch = f"sm_{major}{minor}a" if major >= 9 else f"sm_{major}{minor}"
        self.num_sms = self._attribute(_MULTIPROCESSORS)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value


def driver_version() -> str:
    """The CUDA version that the driver supports."""
    version = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value // 10 % 100}"


def allocate(num_bytes: int) -> int:
    """Device memory."""
    memory = Pointer()
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(max(num_bytes, 16)))
    return memory.value or 0


def release(ptr: int) -> None:
    """Frees device memory."""
    call("cuMemFree_v2", Pointer(ptr))


def copy_to_device(ptr: int, source: int, num_bytes: int) -> None:
    """Copies from the host, and waits until the device has it: the copy alone may end a little earlier."""
    call("cuMemcpyHtoD_v2", Pointer(ptr), Pointer(source), ctypes.c_size_t(num_bytes))
    call("cuStreamSynchronize", None)


def copy_to_host(target: int, ptr: int, num_bytes: int) -> None:
    """Copies to the host, and waits."""
    call("cuMemcpyDtoH_v2", Pointer(target), Pointer(ptr), ctypes.c_size_t(num_bytes))


class Stream:
    """A stream that does not wait for the default stream. ``ptr`` is its ``cudaStream_t``."""

    def __init__(self) -> None:
        self._c = Pointer()
        call("cuStreamCreate", ctypes.byref(self._c), _NON_BLOCKING_STREAM)
        self.ptr = self._c.value or 0
        self._synchronize = _driver().cuStreamSynchronize

    def synchronize(self) -> None:
        if self._synchronize(self._c):
            call("cuStreamSynchronize", self._c)

    def fill(self, ptr: int, byte: int, num_bytes: int) -> None:
        """Sets bytes of device memory."""
        call("cuMemsetD8Async", Pointer(ptr), ctypes.c_ubyte(byte), ctypes.c_size_t(num_bytes), self._c)

    def record(self, event: Event) -> None:
        call("cuEventRecord", event.c, self._c)

    def record_in_graph(self, event: Event) -> None:
        """The same while a graph is captured, so that each replay records it and its time can be read."""
        call("cuEventRecordWithFlags", event.c, self._c, _RECORD_EXTERNAL)

    def begin_capture(self) -> None:
        call("cuStreamBeginCapture_v2", self._c, _CAPTURE_THREAD_LOCAL)

    def end_capture(self) -> Graph:
        captured = Pointer()
        call("cuStreamEndCapture", self._c, ctypes.byref(captured))
        return Graph(captured, self._c)

    def launch(
        self, kernel: Kernel, num_blocks: int, num_threads: int, shared_bytes: int, arguments: Any
    ) -> None:
        """Launches a kernel that takes one struct."""
        grid, block = (num_blocks, 1, 1), (num_threads, 1, 1)
        pointers = (Pointer * 1)(ctypes.addressof(arguments))
        call("cuLaunchKernel", kernel.c, *grid, *block, shared_bytes, self._c, pointers, None)


class Event:
    """A moment on a stream."""

    def __init__(self) -> None:
        self.c = Pointer()
        call("cuEventCreate", ctypes.byref(self.c), 0)

    def microseconds_since(self, start: Event) -> float:
        """Both events must have happened."""
        milliseconds = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(milliseconds), start.c, self.c)
        return milliseconds.value * 1e3


class Graph:
    """Captured work, to be launched on the stream that it was captured from."""

    def __init__(self, captured: Pointer, stream: Pointer) -> None:
        self._stream = stream
        self._executable = Pointer()
        call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), captured, ctypes.c_ulonglong(0))
        call("cuGraphDestroy", captured)

    def launch(self) -> None:
        call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """The graph may not be running."""
        call("cuGraphExecDestroy", self._executable)


class Kernel:
    """A function of a compiled binary."""

    def __init__(self, binary: bytes, name: str, shared_bytes: int) -> None:
        self._module, self.c = Pointer(), Pointer()
        call("cuModuleLoadData", ctypes.byref(self._module), binary)
        call("cuModuleGetFunction", ctypes.byref(self.c), self._module, name.encode())
        call("cuFuncSetAttribute", self.c, _DYNAMIC_SHARED_BYTES, shared_bytes)

# SPDX-License-Identifier: Apache-2.0
"""Real GPUs behind the tests' common face: one process, one thread per GPU, libcuda and libnccl through
ctypes.

Neither PyTorch nor CuPy is needed. libnccl is the one already loaded, the wheel's, or the system's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from nccl_ep import DataType, ElasticBuffer

Array = npt.NDArray[Any]
Pointer = ctypes.c_void_p

CAPTURE_THREAD_LOCAL = 1
EVENT_WITHOUT_TIMING = 2
WINDOW_SYMMETRIC = 1


@dataclass(frozen=True)
class Window:
    """A registered window and where its memory begins, as nccl4py's windows have them."""

    handle: int
    user_ptr: int


@cache
def cuda() -> ctypes.CDLL:
    """The CUDA driver, initialised."""
    library = ctypes.CDLL("libcuda.so.1")
    _check("cuInit", library.cuInit(0))
    return library


@cache
def nccl() -> ctypes.CDLL:
    """libnccl."""
    for path in (*_wheel_paths(), "libnccl.so.2"):
        try:
            return ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise RuntimeError("libnccl.so.2 was found neither in a wheel nor on the system")


def _wheel_paths() -> list[str]:
    paths = []
    for wheel in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        try:
            files = metadata.files(wheel) or []
        except metadata.PackageNotFoundError:
            continue
        paths += [str(file.locate()) for file in files if file.name == "libnccl.so.2"]
    return paths


def _check(what: str, result: int) -> None:
    if result:
        raise RuntimeError(f"{what} failed with {result}")


def _call(library: ctypes.CDLL, name: str, *args: Any) -> None:
    _check(name, getattr(library, name)(*args))


def num_gpus() -> int:
    """How many GPUs there are."""
    count = ctypes.c_int()
    _call(cuda(), "cuDeviceGetCount", ctypes.byref(count))
    return count.value


def max_ranks() -> int:
    """How many ranks tests can have: one for each GPU, or any number where NCCL lets them share GPUs."""
    return 1024 if os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1" and num_gpus() else num_gpus()


class CudaCluster:
    """The first GPUs of this host."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._contexts = [_primary_context(device) for device in range(num_ranks)]
        self._id = make_unique_id()
        self._comms = self._in_threads(self._make_comm)

    def run(self, main: Callable[..., Any], *args: Any) -> list[Any]:
        barrier = threading.Barrier(self.num_ranks)

        def act(rank: int) -> Any:
            face = CudaRank(rank, self.num_ranks, self._comms[rank], barrier, gpu=rank)
            try:
                return main(face, *args)
            except BaseException:
                barrier.abort()
                raise
            finally:
                face.close()

        return self._in_threads(act)

    def close(self) -> None:
        self._in_threads(lambda rank: _call(nccl(), "ncclCommDestroy", Pointer(self._comms[rank])))

    def _make_comm(self, rank: int) -> int:
        return communicator_of(self._id, rank, self.num_ranks)

    def _in_threads(self, act: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.num_ranks
        failures: list[BaseException] = []

        def run(rank: int) -> None:
            _call(cuda(), "cuCtxSetCurrent", self._contexts[rank])
            try:
                results[rank] = act(rank)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(self.num_ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return results


def make_unique_id() -> bytes:
    """What ranks need to find one another."""
    unique_id = (ctypes.c_char * 128)()
    _call(nccl(), "ncclGetUniqueId", unique_id)
    return bytes(unique_id)


class _UniqueId(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 128)]


def communicator_of(unique_id: bytes, rank: int, num_ranks: int) -> int:
    """This rank's communicator. Collective."""
    comm = Pointer()
    raw = _UniqueId.from_buffer_copy(unique_id)
    _call(nccl(), "ncclCommInitRank", ctypes.byref(comm), num_ranks, raw, rank)
    return comm.value or 0


def use_gpu(index: int) -> None:
    """Makes a GPU current in this thread."""
    _call(cuda(), "cuCtxSetCurrent", _primary_context(index))


def _primary_context(index: int) -> Pointer:
    device, context = ctypes.c_int(), Pointer()
    _call(cuda(), "cuDeviceGet", ctypes.byref(device), index)
    _call(cuda(), "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


class DeviceArray:
    """Device memory that says what it is through the CUDA array interface."""

    def __init__(self, ptr: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.ptr, self.shape, self.dtype = ptr, shape, dtype
        self.nbytes = int(np.prod(shape)) * dtype.itemsize
        self.gpu_bytes = self.nbytes  # the rest lies in host memory, which the driver's copies do not know
        DataType.of(dtype)  # so that a test never sends what it does not mean
        self.__cuda_array_interface__ = {
            "data": (ptr, False),
            "shape": shape,
            "typestr": f"|V{dtype.itemsize}",
            "version": 3,
        }

    def __getitem__(self, rows: slice) -> DeviceArray:
        """The first rows."""
        if rows.start or rows.step:
            raise ValueError(f"rows are {rows}, expected the first ones")
        count = len(range(*rows.indices(self.shape[0])))
        return DeviceArray(self.ptr, (count, *self.shape[1:]), self.dtype)


class CudaRank:
    """One rank, whose GPU is current in this thread."""

    def __init__(self, rank: int, num_ranks: int, comm: int, barrier: threading.Barrier, gpu: int) -> None:
        self.rank, self.num_ranks, self.comm = rank, num_ranks, comm
        self._gpu = gpu
        self._barrier = barrier
        self._undo: list[Callable[[], None]] = []

    def array(self, values: Array) -> DeviceArray:
        values = np.asarray(values)
        memory = Pointer()
        _call(cuda(), "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(max(values.nbytes, 16)))
        self._undo.append(lambda: _call(cuda(), "cuMemFree_v2", memory))
        array = DeviceArray(memory.value or 0, values.shape, values.dtype)
        self.write(array, values)
        return array

    def symmetric(self, values: Array, flags: int = WINDOW_SYMMETRIC) -> tuple[DeviceArray, Window]:
        memory, window = Pointer(), Pointer()
        num_bytes = ctypes.c_size_t(values.nbytes)
        _call(nccl(), "ncclMemAlloc", ctypes.byref(memory), num_bytes)
        self._undo.append(lambda: _call(nccl(), "ncclMemFree", memory))
        comm = Pointer(self.comm)
        _call(nccl(), "ncclCommWindowRegister", comm, memory, num_bytes, ctypes.byref(window), flags)
        self._undo.append(lambda: _call(nccl(), "ncclCommWindowDeregister", comm, window))
        array = DeviceArray(memory.value or 0, values.shape, values.dtype)
        self.write(array, values)
        return array, Window(window.value or 0, array.ptr)

    def elastic(self, values: Array, on_gpu: int) -> DeviceArray:
        buffer = ElasticBuffer(on_gpu, values.nbytes - on_gpu, device=self._gpu)
        self._undo.append(buffer.close)
        array = DeviceArray(buffer.ptr + buffer.gpu_bytes - on_gpu, values.shape, values.dtype)
        array.gpu_bytes = on_gpu
        self.write(array, values)
        return array

    def write(self, target: DeviceArray, values: Array) -> None:
        values = np.ascontiguousarray(values)
        source, on_gpu = values.ctypes.data, min(target.gpu_bytes, values.nbytes)
        _call(cuda(), "cuMemcpyHtoD_v2", Pointer(target.ptr), Pointer(source), ctypes.c_size_t(on_gpu))
        ctypes.memmove(target.ptr + on_gpu, source + on_gpu, values.nbytes - on_gpu)

    def read(self, source: DeviceArray) -> Array:
        self.synchronize()
        values = np.empty(source.shape, source.dtype)
        target, on_gpu = values.ctypes.data, min(source.gpu_bytes, values.nbytes)
        _call(cuda(), "cuMemcpyDtoH_v2", Pointer(target), Pointer(source.ptr), ctypes.c_size_t(on_gpu))
        ctypes.memmove(target + on_gpu, source.ptr + on_gpu, values.nbytes - on_gpu)
        return values

    def stream(self) -> CudaStream:
        stream = Pointer()
        _call(cuda(), "cuStreamCreate", ctypes.byref(stream), 1)
        self._undo.append(lambda: _call(cuda(), "cuStreamDestroy_v2", stream))
        return CudaStream(stream, self._undo)

    @contextmanager
    def capture(self) -> Iterator[CudaGraph]:
        graph = CudaGraph(self.stream())
        _call(cuda(), "cuStreamBeginCapture_v2", graph.stream.ptr_, CAPTURE_THREAD_LOCAL)
        captured = Pointer()
        try:
            yield graph
        finally:
            _call(cuda(), "cuStreamEndCapture", graph.stream.ptr_, ctypes.byref(captured))
        _call(
            cuda(), "cuGraphInstantiateWithFlags", ctypes.byref(graph.exec), captured, ctypes.c_ulonglong(0)
        )
        self._undo.append(lambda: _call(cuda(), "cuGraphExecDestroy", graph.exec))

    def synchronize(self) -> None:
        _call(cuda(), "cuCtxSynchronize")

    def barrier(self) -> None:
        self._barrier.wait()

    def close(self) -> None:
        for undo in reversed(self._undo):
            undo()


class CudaStream:
    """A stream that does not wait for the default stream."""

    def __init__(self, ptr: Pointer, undo: list[Callable[[], None]]) -> None:
        self.ptr_ = ptr
        self.ptr = ptr.value or 0
        self._undo = undo

    def synchronize(self) -> None:
        _call(cuda(), "cuStreamSynchronize", self.ptr_)

    def record(self) -> Pointer:
        event = Pointer()
        _call(cuda(), "cuEventCreate", ctypes.byref(event), EVENT_WITHOUT_TIMING)
        self._undo.append(lambda: _call(cuda(), "cuEventDestroy_v2", event))
        _call(cuda(), "cuEventRecord", event, self.ptr_)
        return event

    def wait(self, event: Pointer) -> None:
        _call(cuda(), "cuStreamWaitEvent", self.ptr_, event, 0)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        size = ctypes.c_size_t(source.nbytes)
        _call(cuda(), "cuMemcpyAsync", Pointer(target.ptr), Pointer(source.ptr), size, self.ptr_)


class CudaGraph:
    """Captured work."""

    def __init__(self, stream: CudaStream) -> None:
        self.stream = stream
        self.exec = Pointer()

    def launch(self, stream: CudaStream | None = None) -> None:
        _call(cuda(), "cuGraphLaunch", self.exec, (stream or self.stream).ptr_)

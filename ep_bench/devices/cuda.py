# SPDX-License-Identifier: Apache-2.0
"""Real GPUs: one process a rank."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.devices import driver, nccl
from ep_bench.devices.face import Peers

Array = npt.NDArray[Any]


class DeviceArray:
    """Device memory that says what it is through the CUDA array interface."""

    def __init__(self, ptr: int, shape: Sequence[int], dtype: Any) -> None:
        self.ptr, self.shape, self.dtype = ptr, tuple(shape), np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.__cuda_array_interface__ = {
            "data": (ptr, False),
            "shape": self.shape,
            "typestr": f"|V{self.dtype.itemsize}",  # the interface has no name for bfloat16; dtype says it
            "version": 3,
        }

    def address(self, element: int) -> int:
        """Where an element is."""
        return self.ptr + int(element * self.dtype.itemsize)


class CudaDevice:
    """A GPU, current in this thread, and a communicator for barriers. Made on all ranks together."""

    kind = "cuda"

    def __init__(self, index: int, peers: Peers) -> None:
        self.gpu = driver.Gpu(index)
        self.stream = driver.Stream()
        self.peers = peers
        self.world = self._new_communicator()
        self._barrier = nccl.Barrier(self.world, driver.allocate(4), self.stream.ptr)
        self.align_ranks()
        self.synchronize()

    @contextmanager
    def communicator(self) -> Iterator[nccl.Communicator]:
        communicator = self._new_communicator()
        yield communicator
        communicator.close()  # only if all went well: after an error, peers may not be there any more

    def memory(self, communicator: nccl.Communicator) -> CudaMemory:
        return CudaMemory(communicator)

    def fill(self, array: DeviceArray, byte: int, first: int, count: int) -> None:
        if count:
            self.stream.fill(array.address(first), byte, count * array.dtype.itemsize)

    def write(self, array: DeviceArray, values: Array, first: int = 0) -> None:
        if values.size:
            values = np.ascontiguousarray(values, array.dtype)
            driver.copy_to_device(array.address(first), values.ctypes.data, values.nbytes)

    def read(self, array: DeviceArray, first: int, shape: Sequence[int]) -> Array:
        self.synchronize()
        values = np.empty(shape, array.dtype)
        if values.size:
            driver.copy_to_host(values.ctypes.data, array.address(first), values.nbytes)
        return values

    @contextmanager
    def capture(self) -> Iterator[CapturedGraph]:
        graph = CapturedGraph()
        self.stream.begin_capture()
        yield graph
        graph.executable = self.stream.end_capture()

    def synchronize(self) -> None:
        self.stream.synchronize()

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def align_ranks(self) -> None:
        """Lets what is put on the stream from now on start together on all ranks."""
        self._barrier.enqueue()

    def event(self) -> driver.Event:
        """A moment that :meth:`record` can fix."""
        return driver.Event()

    def record(self, event: driver.Event) -> None:
        """Fixes an event behind what is on the stream."""
        self.stream.record(event)

    def record_in_graph(self, event: driver.Event) -> None:
        """Has each replay of the graph that is captured fix an event there."""
        self.stream.record_in_graph(event)

    def _new_communicator(self) -> nccl.Communicator:
        mine = nccl.make_unique_id() if self.peers.rank == 0 else None
        unique_id = self.peers.all_gather(mine)[0]
        return nccl.Communicator(unique_id, self.peers.rank, self.peers.num_ranks)


class CapturedGraph:
    """A graph that can be launched once its ``with`` block is left."""

    executable: driver.Graph

    def launch(self) -> None:
        self.executable.launch()

    def close(self) -> None:
        self.executable.close()


class CudaMemory:
    """Arrays of one case."""

    def __init__(self, communicator: nccl.Communicator) -> None:
        self._communicator = communicator
        self._arrays: list[DeviceArray] = []
        self._windows: list[nccl.Window] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._arrays.append(DeviceArray(driver.allocate(num_bytes), shape, dtype))
        return self._arrays[-1]

    def window(self, shape: Sequence[int], dtype: Any) -> tuple[DeviceArray, int]:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        window = nccl.Window(self._communicator, num_bytes)
        self._windows.append(window)
        return DeviceArray(window.ptr, shape, dtype), window.handle

    def close(self) -> None:
        for array in self._arrays:
            driver.release(array.ptr)
        for window in self._windows:
            window.close()
        self._arrays, self._windows = [], []

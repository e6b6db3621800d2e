# SPDX-License-Identifier: Apache-2.0
"""Rank: one simulated GPU, as the thread that acts for it sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from operator import index
from types import TracebackType
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from nccl_ep._checks import unsigned
from nccl_ep.dtypes import numpy_dtype
from nccl_ep.sim._ffi import NULL, ffi
from nccl_ep.sim.gpu import Gpu
from nccl_ep.sim.stream import Event, Graph, Stream

Array = npt.NDArray[Any]


class Rank:
    """One simulated GPU with its memory and streams. :meth:`Cluster.run` hands one to each thread.

    Memory is NumPy arrays that kernels can use. They may be read and written by NumPy, but not while kernels
    or copies that use them are pending: synchronize first. Memory lasts until it is freed or its cluster is
    gone.

    Attributes:
        rank: number of this rank in the world.
        num_ranks: ranks of the world.
        comm: the communicator of all ranks, for :class:`nccl_ep.Group`.
    """

    def __init__(self, owner: Any, rank: int, num_ranks: int) -> None:
        self._gpu = Gpu(owner, rank)
        self.rank = rank
        self.num_ranks = num_ranks
        comm = ffi.new("ncclComm_t*")
        self._gpu.call("ncclEpSimGetComm", comm)
        self.comm = Communicator(self._gpu, num_ranks, int(ffi.cast("uintptr_t", comm[0])))
        self.default_stream = Stream(self._gpu, NULL)

    # ---- Memory ----

    def empty(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = np.float32) -> Array:
        """Device memory with unknown contents, as an array."""
        return self._allocate("ncclEpSimMalloc", shape, dtype)

    def full(
        self, shape: SupportsIndex | Sequence[SupportsIndex], value: Any, dtype: Any = np.float32
    ) -> Array:
        """Device memory with this value everywhere."""
        array = self.empty(shape, dtype)
        array[...] = value
        return array

    def zeros(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = np.float32) -> Array:
        """Device memory full of zeros."""
        return self.full(shape, 0, dtype)

    def array(self, values: npt.ArrayLike, dtype: Any = None) -> Array:
        """Device memory with a copy of these values."""
        values = np.asarray(values, None if dtype is None else numpy_dtype(dtype))
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def symmetric(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = np.float32) -> Array:
        """Device memory that :meth:`register_window` can make a window."""
        return self._allocate("ncclEpSimMemAlloc", shape, dtype)

    def elastic(self, gpu_bytes: int, host_bytes: int) -> Elastic:
        """Device memory with an end that counts as the host's; see :class:`nccl_ep.ElasticBuffer`."""
        return Elastic(self._gpu, gpu_bytes, host_bytes)

    def free(self, array: Array) -> None:
        """Frees memory of :meth:`empty` and its kind before the cluster ends. Waits for nothing."""
        self._free("ncclEpSimFree", array)

    def free_symmetric(self, array: Array) -> None:
        """Frees memory of :meth:`symmetric` before the cluster ends."""
        self._free("ncclEpSimMemFree", array)

    def register_window(self, array: Array) -> Window:
        """Makes an array of :meth:`symmetric` a window that other ranks can write to. Collective."""
        window = ffi.new("ncclWindow_t*")
        memory = ffi.cast("void*", array.ctypes.data)
        self._gpu.call("ncclEpSimWindowRegister", memory, array.nbytes, window)
        return Window(self._gpu, array, window[0])

    # ---- Streams and time ----

    def stream(self) -> Stream:
        """A new stream."""
        stream = ffi.new("cudaStream_t*")
        self._gpu.call("ncclEpSimStreamCreate", stream)
        return Stream(self._gpu, stream[0])

    def event(self) -> Event:
        """A new event, recorded nowhere yet."""
        return Event(self._gpu)

    @contextmanager
    def capture(self, stream: Stream | None = None) -> Iterator[Graph]:
        """Records what is put on a stream in the ``with`` block into a graph, instead of doing it.

        Args:
            stream: the stream to capture; default: a new one, found at the graph's ``stream``.

        Yields:
            A :class:`Graph`, ready to launch after the block.
        """
        graph = Graph(self._gpu, stream or self.stream())
        self._gpu.call("ncclEpSimStreamBeginCapture", graph.stream.c)
        captured = ffi.new("ncclEpSimGraph_t*")
        try:
            yield graph
        except BaseException:
            self._gpu.result("ncclEpSimStreamEndCapture", graph.stream.c, captured)
            raise
        self._gpu.call("ncclEpSimStreamEndCapture", graph.stream.c, captured)
        graph.c = captured[0]

    def synchronize(self) -> None:
        """Waits for all streams of this rank."""
        self._gpu.call("ncclEpSimDeviceSynchronize")

    # ---- Other ranks' hosts ----

    def barrier(self) -> None:
        """Waits for the hosts of all ranks. Collective."""
        self._gpu.call("ncclEpSimBarrier")

    def all_gather(self, values: npt.ArrayLike) -> Array:
        """The hosts' numbers of all ranks: ``[ranks, *shape]``. Collective; same shape and dtype."""
        mine = np.ascontiguousarray(values)
        if mine.dtype.hasobject or mine.dtype.kind in "SUMm":
            raise TypeError(
                f"all_gather of {type(values).__name__} as {mine.dtype}, expected an array of numbers"
            )
        everyone = np.empty((self.num_ranks, *np.shape(values)), mine.dtype)
        source, target = ffi.cast("void*", mine.ctypes.data), ffi.cast("void*", everyone.ctypes.data)
        self._gpu.call("ncclEpSimAllGather", source, target, mine.nbytes)
        return everyone

    # ---- Acting for the rank ----

    def __enter__(self) -> Rank:
        self._gpu.call("ncclEpSimRankEnter")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gpu.call("ncclEpSimRankLeave")

    def __repr__(self) -> str:
        return f"<nccl_ep.sim.Rank {self.rank} of {self.num_ranks}>"

    def _allocate(self, function: str, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any) -> Array:
        extents = tuple(map(index, (shape,) if isinstance(shape, SupportsIndex) else shape))
        if any(extent < 0 for extent in extents):
            raise ValueError(f"shape is {extents}, expected no negative extents")
        num_bytes = prod(extents) * numpy_dtype(dtype).itemsize
        memory = ffi.new("void**")
        self._gpu.call(function, memory, max(num_bytes, 1))
        raw = _Memory(self._gpu, int(ffi.cast("uintptr_t", memory[0])), num_bytes)
        return np.asarray(raw).view(numpy_dtype(dtype)).reshape(extents)

    def _free(self, function: str, array: Array) -> None:
        self._gpu.call(function, ffi.cast("void*", array.ctypes.data))


class Communicator:
    """The communicator of a simulated cluster's ranks. ``ptr`` is its ``ncclComm_t``."""

    def __init__(self, gpu: Gpu, num_ranks: int, ptr: int) -> None:
        self.ptr = ptr
        self.rank = gpu.rank
        self.nranks = num_ranks
        self._gpu = gpu


class Window:
    """Symmetric memory that other ranks can write to, for ``Tensor(array, window=window)``.

    Attributes:
        user_ptr: where the memory starts.
        size: its bytes.
    """

    def __init__(self, gpu: Gpu, array: Array, c: Any) -> None:
        self.user_ptr = array.ctypes.data
        self.size = array.nbytes
        self._gpu = gpu
        self._c = c

    @property
    def handle(self) -> int:
        """The ``ncclWindow_t`` as an address."""
        if self._c == NULL:
            raise RuntimeError("the window is closed")
        return int(ffi.cast("uintptr_t", self._c))

    def close(self) -> None:
        """Ends the window; every rank does so. Closing twice is harmless."""
        c, self._c = self._c, NULL
        if c != NULL:
            self._gpu.call("ncclEpSimWindowDeregister", c)


class Elastic:
    """Memory of which the end is in the host, for ``nccl_ep.ElasticBuffer(..., device=rank)``.

    Attributes:
        array: all of it, as bytes.
        ptr: where it is.
        gpu_bytes: how many there are on the GPU.
        host_bytes: how many there are in the host, behind them.
    """

    def __init__(self, gpu: Gpu, gpu_bytes: int, host_bytes: int) -> None:
        memory = ffi.new("void**")
        on_gpu = ffi.new("size_t*", unsigned("gpu_bytes", gpu_bytes, bits=64))
        in_host = ffi.new("size_t*", unsigned("host_bytes", host_bytes, bits=64))
        gpu.call("ncclEpSimElasticAlloc", memory, on_gpu, in_host)
        self._gpu = gpu
        self.gpu_bytes, self.host_bytes = int(on_gpu[0]), int(in_host[0])
        self.ptr = int(ffi.cast("uintptr_t", memory[0]))
        self.array = np.asarray(_Memory(gpu, self.ptr, self.gpu_bytes + self.host_bytes))

    def close(self) -> None:
        """Frees it. Waits for nothing."""
        self._gpu.call("ncclEpSimFree", ffi.cast("void*", self.ptr))


class _Memory:
    """What an array of simulated memory hangs on: it keeps the cluster."""

    def __init__(self, gpu: Gpu, ptr: int, num_bytes: int) -> None:
        self._gpu = gpu
        self.__array_interface__ = {
            "data": (ptr, False),
            "shape": (num_bytes,),
            "typestr": "|u1",
            "version": 3,
        }

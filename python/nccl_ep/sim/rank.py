# SPDX-License-Identifier: Apache-2.0
"""Rank: one simulated GPU, as the thread that acts for it sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from operator import index
from types import TracebackType
from typing import Any, SupportsIndex

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nccl_ep.dtypes import DataType
from nccl_ep.sim._ffi import NULL, check, ffi, library
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
        self._owner = owner
        self._c = owner.c
        self.rank = rank
        self.num_ranks = num_ranks
        comm = ffi.new("ncclComm_t*")
        check(library().ncclEpSimGetComm(self._c, rank, comm))
        self.comm = Communicator(self, int(ffi.cast("uintptr_t", comm[0])))
        self.default_stream = Stream(self, NULL)

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
        return Elastic(self, gpu_bytes, host_bytes)

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
        check(library().ncclEpSimWindowRegister(self._c, self.rank, memory, array.nbytes, window))
        return Window(self, array, window[0])

    # ---- Streams and time ----

    def stream(self) -> Stream:
        """A new stream."""
        stream = ffi.new("cudaStream_t*")
        check(library().ncclEpSimStreamCreate(self._c, self.rank, stream))
        return Stream(self, stream[0])

    def event(self) -> Event:
        """A new event, recorded nowhere yet."""
        event = ffi.new("ncclEpSimEvent_t*")
        check(library().ncclEpSimEventCreate(self._c, self.rank, event))
        return Event(self, event[0])

    @contextmanager
    def capture(self, stream: Stream | None = None) -> Iterator[Graph]:
        """Records what is put on a stream in the ``with`` block into a graph, instead of doing it.

        Args:
            stream: the stream to capture; default: a new one, found at the graph's ``stream``.

        Yields:
            A :class:`Graph`, ready to launch after the block.
        """
        graph = Graph(self, stream or self.stream())
        check(library().ncclEpSimStreamBeginCapture(self._c, self.rank, graph.stream.c))
        captured = ffi.new("ncclEpSimGraph_t*")
        try:
            yield graph
        except BaseException:
            library().ncclEpSimStreamEndCapture(self._c, self.rank, graph.stream.c, captured)
            raise
        check(library().ncclEpSimStreamEndCapture(self._c, self.rank, graph.stream.c, captured))
        graph.c = captured[0]

    def synchronize(self) -> None:
        """Waits for all streams of this rank."""
        check(library().ncclEpSimDeviceSynchronize(self._c, self.rank))

    # ---- Other ranks' hosts ----

    def barrier(self) -> None:
        """Waits for the hosts of all ranks. Collective."""
        check(library().ncclEpSimBarrier(self._c, self.rank))

    def all_gather(self, values: npt.ArrayLike) -> Array:
        """The hosts' numbers of all ranks: ``[ranks, *shape]``. Collective; same shape and dtype."""
        mine = np.ascontiguousarray(values)
        if mine.dtype.hasobject or mine.dtype.kind in "SUMm":
            raise TypeError(
                f"all_gather of {type(values).__name__} as {mine.dtype}, expected an array of numbers"
            )
        everyone = np.empty((self.num_ranks, *np.shape(values)), mine.dtype)
        source, target = ffi.cast("void*", mine.ctypes.data), ffi.cast("void*", everyone.ctypes.data)
        check(library().ncclEpSimAllGather(self._c, self.rank, source, target, mine.nbytes))
        return everyone

    # ---- Acting for the rank ----

    def __enter__(self) -> Rank:
        check(library().ncclEpSimRankEnter(self._c, self.rank))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        check(library().ncclEpSimRankLeave(self._c, self.rank))

    def __repr__(self) -> str:
        return f"<nccl_ep.sim.Rank {self.rank} of {self.num_ranks}>"

    def _allocate(self, function: str, shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any) -> Array:
        extents = tuple(map(index, (shape,) if isinstance(shape, SupportsIndex) else shape))
        if any(extent < 0 for extent in extents):
            raise ValueError(f"shape is {extents}, expected no negative extents")
        num_bytes = prod(extents) * numpy_dtype(dtype).itemsize
        memory = ffi.new("void**")
        check(getattr(library(), function)(self._c, self.rank, memory, max(num_bytes, 1)))
        raw = _Memory(self._owner, int(ffi.cast("uintptr_t", memory[0])), num_bytes)
        return np.asarray(raw).view(numpy_dtype(dtype)).reshape(extents)

    def _free(self, function: str, array: Array) -> None:
        check(getattr(library(), function)(self._c, self.rank, ffi.cast("void*", array.ctypes.data)))


class Communicator:
    """The communicator of a simulated cluster's ranks. ``ptr`` is its ``ncclComm_t``."""

    def __init__(self, owner: Rank, ptr: int) -> None:
        self.ptr = ptr
        self.rank = owner.rank
        self.nranks = owner.num_ranks
        self._owner = owner._owner


class Window:
    """Symmetric memory that other ranks can write to, for ``Tensor(array, window=window)``.

    Attributes:
        user_ptr: where the memory starts.
        size: its bytes.
    """

    def __init__(self, rank: Rank, array: Array, c: Any) -> None:
        self.user_ptr = array.ctypes.data
        self.size = array.nbytes
        self._rank = rank
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
            check(library().ncclEpSimWindowDeregister(self._rank._c, self._rank.rank, c))


class Elastic:
    """Memory of which the end is in the host, for ``nccl_ep.ElasticBuffer(..., device=rank)``.

    Attributes:
        array: all of it, as bytes.
        ptr: where it is.
        gpu_bytes: how many there are on the GPU.
        host_bytes: how many there are in the host, behind them.
    """

    def __init__(self, rank: Rank, gpu_bytes: int, host_bytes: int) -> None:
        self._rank = rank
        memory, gpu, host = ffi.new("void**"), ffi.new("size_t*", gpu_bytes), ffi.new("size_t*", host_bytes)
        check(library().ncclEpSimElasticAlloc(rank._c, rank.rank, memory, gpu, host))
        self.gpu_bytes, self.host_bytes = int(gpu[0]), int(host[0])
        self.ptr = int(ffi.cast("uintptr_t", memory[0]))
        self.array = np.asarray(_Memory(rank._owner, self.ptr, self.gpu_bytes + self.host_bytes))

    def close(self) -> None:
        """Frees it. Waits for nothing."""
        self._rank.free(self.array)


class _Memory:
    """What an array of simulated memory hangs on: it keeps the cluster."""

    def __init__(self, owner: Any, ptr: int, num_bytes: int) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "data": (ptr, False),
            "shape": (num_bytes,),
            "typestr": "|u1",
            "version": 3,
        }


_SMALL: dict[DataType, np.dtype[Any]] = {
    DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DataType.FLOAT8E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    DataType.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DataType.FLOAT4X2: np.dtype(np.uint8),
}


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype for a dtype, a scalar type, a name or a :class:`nccl_ep.DataType`."""
    if not isinstance(dtype, DataType):
        try:
            known: np.dtype[Any] = np.dtype(dtype)
            return known
        except TypeError:
            dtype = DataType.of(dtype)
    return _SMALL[dtype] if dtype in _SMALL else np.dtype(dtype.name.lower())

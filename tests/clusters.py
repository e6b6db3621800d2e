# SPDX-License-Identifier: Apache-2.0
"""One face for simulated and real GPUs, so that a test body runs on both.

``Cluster.run(main)`` calls ``main(rank)`` in a thread for every rank. A rank has ``comm``, makes device
arrays from NumPy ones and reads them back, and has streams and graphs. Everything else is the library's own
API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from nccl_ep import sim

Array = npt.NDArray[Any]


class Stream(Protocol):
    """A stream that the library accepts."""

    def synchronize(self) -> None: ...

    def record(self) -> Any:
        """An event behind the work on the stream."""

    def wait(self, event: Any) -> None:
        """Lets work put on the stream from now on wait for an event."""

    def copy(self, target: Any, source: Any) -> None:
        """Copies device memory, in stream order."""


class Graph(Protocol):
    """Captured work; ``stream`` is where it was captured."""

    stream: Any

    def launch(self, stream: Stream | None = None) -> None:
        """Puts the work on a stream; default: the one it was captured from."""


class Rank(Protocol):
    """What a test body may use."""

    rank: int
    num_ranks: int
    comm: Any

    def array(self, values: Array) -> Any:
        """Device memory with a copy of these values."""

    def symmetric(self, values: Array) -> tuple[Any, Any]:
        """The same in memory of a window, and the window. Collective."""

    def elastic(self, values: Array, on_gpu: int) -> Any:
        """The same in elastic memory: so many bytes on the GPU, and the rest in the host."""

    def write(self, target: Any, values: Array) -> None:
        """Overwrites device memory; nothing that uses it may be pending."""

    def read(self, source: Any) -> Array:
        """A copy of device memory, once everything pending on this rank is done."""

    def stream(self) -> Any: ...

    def capture(self) -> AbstractContextManager[Any]:
        """Captures a stream of its own into the Graph that this yields."""

    def synchronize(self) -> None: ...

    def barrier(self) -> None:
        """Waits for the other ranks' hosts."""


class Cluster(Protocol):
    """Some GPUs and a way to run on them."""

    num_ranks: int

    def run(self, main: Callable[..., Any], *args: Any) -> list[Any]: ...


class SimCluster:
    """Simulated GPUs, on one node or several. ``sim`` is the simulator's cluster, for what only it can do."""

    def __init__(self, num_ranks: int, seed: int, *, nodes: int = 1, **options: Any) -> None:
        self.sim = sim.Cluster(nodes, num_ranks // nodes, seed=seed, **options)
        self.num_ranks = num_ranks

    def run(self, main: Callable[..., Any], *args: Any) -> list[Any]:
        return self.sim.run(lambda rank: main(SimRank(rank), *args))

    def close(self) -> None:
        self.sim.close()


class SimRank:
    """A simulated GPU behind the common face. ``sim`` is the simulator's own rank."""

    def __init__(self, rank: sim.Rank) -> None:
        self.sim = rank
        self.rank, self.num_ranks, self.comm = rank.rank, rank.num_ranks, rank.comm
        self.array, self.stream, self.capture = rank.array, rank.stream, rank.capture
        self.synchronize, self.barrier = rank.synchronize, rank.barrier

    def symmetric(self, values: Array) -> tuple[Array, sim.Window]:
        memory = self.sim.symmetric(values.shape, values.dtype)
        memory[...] = values
        return memory, self.sim.register_window(memory)

    def elastic(self, values: Array, on_gpu: int) -> Array:
        memory = self.sim.elastic(on_gpu, values.nbytes - on_gpu)
        begin = memory.gpu_bytes - on_gpu
        array = memory.array[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array

    def write(self, target: Array, values: Array) -> None:
        target[...] = values

    def read(self, source: Array) -> Array:
        self.synchronize()
        return np.array(source)


@contextmanager
def open_cluster(device: str, num_ranks: int, seed: int, **options: Any) -> Iterator[Any]:
    """A cluster of this kind of device. ``options`` are the simulator's and mean nothing elsewhere."""
    if device == "sim":
        cluster: Any = SimCluster(num_ranks, seed, **options)
    else:
        from cuda_cluster import CudaCluster, num_gpus

        if num_ranks > num_gpus():
            from cuda_processes import shared_cluster

            yield shared_cluster(num_ranks)
            return
        cluster = CudaCluster(num_ranks)
    try:
        yield cluster
    finally:
        cluster.close()

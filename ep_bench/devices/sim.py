# SPDX-License-Identifier: Apache-2.0
"""Simulated GPUs: ranks are threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from nccl_ep import sim

Array = npt.NDArray[Any]


class SimPeers:
    """Hosts that are threads. Values change hands between two barriers of the simulator, which has to know
    that a thread waits."""

    def __init__(self, rank: sim.Rank, slots: list[Any]) -> None:
        self.rank, self.num_ranks = rank.rank, rank.num_ranks
        self._rank = rank
        self._slots = slots

    def all_gather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = value
        self._rank.barrier()
        everyone = list(self._slots)
        self._rank.barrier()
        return everyone

    def forget(self, rank: int) -> None:
        pass  # its host lives on


class SimDevice:
    """A simulated GPU. It counts what crosses its links, and knows nothing about time."""

    kind = "sim"

    def __init__(self, rank: sim.Rank, cluster: sim.Cluster) -> None:
        self.stream = rank.stream()
        self.cluster = cluster
        self._rank = rank

    @contextmanager
    def communicator(self) -> Iterator[Any]:
        yield self._rank

    def memory(self, communicator: Any) -> SimMemory:
        return SimMemory(self._rank)

    def fill(self, array: Array, byte: int, first: int, count: int) -> None:
        elements = array.reshape(-1)[first : first + count]
        if elements.size:
            self.stream.fill(elements, byte)

    def write(self, array: Array, values: Array, first: int = 0) -> None:
        array.reshape(-1)[first : first + values.size] = values.reshape(-1)

    def read(self, array: Array, first: int, shape: Sequence[int]) -> Array:
        self.synchronize()
        count = int(np.prod(shape))
        return np.array(array.reshape(-1)[first : first + count].reshape(shape))

    @contextmanager
    def capture(self) -> Iterator[sim.Graph]:
        with self._rank.capture(self.stream) as graph:
            yield graph

    def synchronize(self) -> None:
        self.stream.synchronize()

    def now_ns(self) -> int:
        return self.cluster.clock_ns

    def die(self) -> None:
        self.cluster.silence(self._rank.rank)

    def revive(self) -> None:
        """The end of :meth:`die`, so that what its host holds can be given back."""
        self.cluster.wake(self._rank.rank)

    def count_bytes(self, action: Callable[[], None]) -> float:
        """Runs ``action`` on all ranks and says how many bytes crossed links: mean over ranks."""
        self._rank.barrier()
        if self._rank.rank == 0:
            self.cluster.reset_traffic()
        self._rank.barrier()
        action()
        self.synchronize()
        self._rank.barrier()
        links = self.cluster.traffic()
        self._rank.barrier()
        remote = ~np.eye(len(links), dtype=bool)
        crossed = int(links["bytes"][remote].sum() + links["read_bytes"][remote].sum())
        return crossed / len(links)


class SimMemory:
    """Arrays of one case."""

    def __init__(self, rank: sim.Rank) -> None:
        self._rank = rank
        self._arrays: list[Array] = []
        self._windows: list[tuple[Array, sim.Window]] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        self._arrays.append(self._rank.empty(tuple(shape), dtype))
        return self._arrays[-1]

    def window(self, shape: Sequence[int], dtype: Any) -> tuple[Array, sim.Window]:
        array = self._rank.symmetric(tuple(shape), dtype)
        self._windows.append((array, self._rank.register_window(array)))
        return self._windows[-1]

    def close(self) -> None:
        for array in self._arrays:
            self._rank.free(array)
        for array, window in self._windows:
            window.close()
            self._rank.free_symmetric(array)
        self._arrays, self._windows = [], []

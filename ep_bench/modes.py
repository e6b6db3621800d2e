# SPDX-License-Identifier: Apache-2.0
"""How operations are measured on GPUs: one class a mode. Each times one rank's share of some iterations."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Protocol

import numpy as np

from ep_bench.devices.cuda import CudaDevice
from ep_bench.devices.driver import Event
from ep_bench.devices.kernel_times import KernelTimes
from ep_bench.operations import Operation

GRAPH_OPERATIONS = 20
"""Operations in a graph."""


class Sampler(Protocol):
    """Measures one operation in one mode. Ranks sample together."""

    def once(self) -> None:
        """Does the operation in the way that is measured, without measuring."""

    def sample(self, count: int) -> list[float]:
        """Microseconds of each of ``count`` iterations on this rank."""

    def close(self) -> None: ...


class HostSampler:
    """Call to completion, every iteration alone. Ranks start together, as far as their hosts can."""

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        self._device = device
        self._operation = operation
        self.call_us: list[float] = []

    def once(self) -> None:
        self._operation.enqueue()
        self._device.synchronize()

    def sample(self, count: int) -> list[float]:
        times = []
        enqueue, synchronize = self._operation.enqueue, self._device.synchronize
        for _ in range(count):
            self._device.align_ranks()
            synchronize()
            start = perf_counter_ns()
            enqueue()
            enqueued = perf_counter_ns()
            synchronize()
            times.append((perf_counter_ns() - start) / 1e3)
            self.call_us.append((enqueued - start) / 1e3 / len(self._operation.calls))
        return times

    def close(self) -> None:
        pass


class GraphSampler:
    """A graph of operations, replayed between two events. An iteration is a replay over its operations."""

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        self._device = device
        self._events: list[tuple[Event, Event]] = []
        with device.capture() as self._graph:
            for _ in range(GRAPH_OPERATIONS):
                operation.enqueue()

    def once(self) -> None:
        self._graph.launch()
        self._device.synchronize()

    def sample(self, count: int) -> list[float]:
        event, record = self._device.event, self._device.record
        self._events += [(event(), event()) for _ in range(count - len(self._events))]
        for start, end in self._events[:count]:
            self._device.align_ranks()
            record(start)
            self._graph.launch()
            record(end)
        self._device.synchronize()
        return [end.microseconds_since(start) / GRAPH_OPERATIONS for start, end in self._events[:count]]

    def close(self) -> None:
        self._graph.close()


class KernelSampler:
    """The kernels of each operation alone, by CUPTI. Calls follow one another, which keeps ranks together."""

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        self._device = device
        self._operation = operation

    def once(self) -> None:
        self._operation.enqueue()
        self._device.synchronize()

    def sample(self, count: int) -> list[float]:
        self._device.align_ranks()
        self._device.synchronize()
        with KernelTimes() as kernels:
            for _ in range(count):
                self._operation.enqueue()
            self._device.synchronize()
        durations = kernels.durations_us
        if len(durations) % count:
            raise RuntimeError(f"CUPTI saw {len(durations)} kernels in {count} calls, expected a multiple")
        return [float(time) for time in np.reshape(durations, (count, -1)).sum(axis=1)]

    def close(self) -> None:
        pass


SAMPLERS: dict[str, type[HostSampler] | type[GraphSampler] | type[KernelSampler]] = {
    "kernel": KernelSampler,
    "graph": GraphSampler,
    "host": HostSampler,
}

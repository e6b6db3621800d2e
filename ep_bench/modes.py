# SPDX-License-Identifier: Apache-2.0
"""How operations are measured on GPUs: one class a mode. Each times one rank's share of some iterations."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Protocol

import numpy as np

from ep_bench.devices.cuda import CudaDevice
from ep_bench.devices.driver import Event
from ep_bench.devices.kernel_times import KernelTimes
from ep_bench.operations import Calls, Operation, make

GRAPH_OPERATIONS = 20
"""Operations in a graph."""


class Sampler(Protocol):
    """Measures one operation in one mode. Ranks sample together."""

    def once(self) -> None:
        """Does the operation in the way that is measured, without measuring."""

    def sample(self, count: int) -> list[float]:
        """Microseconds of each of ``count`` iterations on this rank."""

    def close(self) -> None: ...


class CallSampler:
    """What the modes share that make the calls one by one."""

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        self._device = device
        self._operation = operation

    def once(self) -> None:
        self._operation.enqueue_all()
        self._device.synchronize()

    def close(self) -> None:
        pass


class HostSampler(CallSampler):
    """Call to completion, every iteration alone. Ranks start together, as far as their hosts can."""

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        super().__init__(device, operation)
        self.call_us: list[float] = []

    def sample(self, count: int) -> list[float]:
        times = []
        enqueue, synchronize = self._operation.enqueue, self._device.synchronize
        for _ in range(count):
            make(self._operation.before)
            self._device.align_ranks()
            synchronize()
            start = perf_counter_ns()
            enqueue()
            enqueued = perf_counter_ns()
            synchronize()
            times.append((perf_counter_ns() - start) / 1e3)
            self.call_us.append((enqueued - start) / 1e3 / len(self._operation.calls))
            make(self._operation.after)
        return times


class GraphSampler:
    """A graph of operations, replayed between two events. An iteration is a replay over its operations.

    Where some of the calls are not measured, events in the graph stand around each operation instead.
    """

    def __init__(self, device: CudaDevice, operation: Operation) -> None:
        self._device = device
        self._events: list[tuple[Event, Event]] = []
        self._inside: list[tuple[Event, Event]] = []
        with device.capture() as self._graph:
            for _ in range(GRAPH_OPERATIONS):
                if operation.has_company:
                    self._capture_between_events(operation)
                else:
                    operation.enqueue()

    def _capture_between_events(self, operation: Operation) -> None:
        start, end = self._device.event(), self._device.event()
        make(operation.before)
        self._device.record_in_graph(start)
        operation.enqueue()
        self._device.record_in_graph(end)
        make(operation.after)
        self._inside.append((start, end))

    def once(self) -> None:
        self._graph.launch()
        self._device.synchronize()

    def sample(self, count: int) -> list[float]:
        return [self._sample_inside() for _ in range(count)] if self._inside else self._sample_outside(count)

    def _sample_inside(self) -> float:
        self._device.align_ranks()
        self.once()
        return _time_between(self._inside) / GRAPH_OPERATIONS

    def _sample_outside(self, count: int) -> list[float]:
        event, record = self._device.event, self._device.record
        self._events += [(event(), event()) for _ in range(count - len(self._events))]
        for start, end in self._events[:count]:
            self._device.align_ranks()
            record(start)
            self._graph.launch()
            record(end)
        self._device.synchronize()
        return [_time_between([pair]) / GRAPH_OPERATIONS for pair in self._events[:count]]

    def close(self) -> None:
        self._graph.close()


def _time_between(events: list[tuple[Event, Event]]) -> float:
    """Microseconds from the first to the second of each pair, all together."""
    return sum(end.microseconds_since(start) for start, end in events)


class KernelSampler(CallSampler):
    """The kernels of each operation alone, by CUPTI. Calls follow one another, which keeps ranks together."""

    def sample(self, count: int) -> list[float]:
        operation = self._operation
        # Which of an iteration's kernels are the operation's: those behind what comes before it.
        first = len(self._durations_of(operation.before, 1))
        num_kernels = len(self._durations_of(operation.calls, 1)) if operation.has_company else None
        if operation.after:
            self._durations_of(operation.after, 1)
        durations = self._durations_of((*operation.before, *operation.calls, *operation.after), count)
        if len(durations) % count:
            raise RuntimeError(f"CUPTI saw {len(durations)} kernels in {count} calls, expected a multiple")
        mine = np.reshape(durations, (count, -1))[:, first:][:, :num_kernels]
        return [float(time) for time in mine.sum(axis=1)]

    def _durations_of(self, calls: Calls, count: int) -> list[float]:
        """Of the kernels that these calls start, made ``count`` times."""
        if not calls:
            return []
        self._device.align_ranks()
        self._device.synchronize()
        with KernelTimes() as kernels:
            for _ in range(count):
                make(calls)
            self._device.synchronize()
        return kernels.durations_us


SAMPLERS: dict[str, type[HostSampler] | type[GraphSampler] | type[KernelSampler]] = {
    "kernel": KernelSampler,
    "graph": GraphSampler,
    "host": HostSampler,
}

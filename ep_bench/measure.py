# SPDX-License-Identifier: Apache-2.0
"""Verifies one operation in one mode for each library, and measures it: on GPUs time, else bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Protocol

import numpy as np

from ep_bench.devices.cuda import CudaDevice
from ep_bench.devices.face import Peers
from ep_bench.devices.sim import SimDevice
from ep_bench.expect import WrongData
from ep_bench.modes import SAMPLERS, HostSampler, Sampler
from ep_bench.operations import OPERATIONS, Operation, make
from ep_bench.rows import Measured
from ep_bench.statistics import Times, percentile, ratio_of, slowest_rank
from ep_bench.subject import Subject

ROUNDS = 10
"""Libraries take turns this often."""

Progress = Callable[[], None]


class Meter(Protocol):
    """Measures subjects against each other. Collective."""

    def measure(self, subjects: list[Subject], op: str, mode: str) -> list[Measured | WrongData]:
        """The first subject is what ratios relate to. Each is verified in this mode before it is measured."""


class CudaMeter:
    """Times, of the slowest rank in each iteration."""

    def __init__(self, device: CudaDevice, peers: Peers, iters: int, warmup: int, progress: Progress) -> None:
        self._device, self._peers, self._progress = device, peers, progress
        self._warmup = warmup
        self._rounds = min(ROUNDS, iters)
        self._per_round = -(-iters // self._rounds)

    def measure(self, subjects: list[Subject], op: str, mode: str) -> list[Measured | WrongData]:
        with ExitStack() as stack:
            results: list[Measured | WrongData] = []
            samplers: list[Sampler] = []
            for subject in subjects:
                try:
                    samplers.append(self._verified_sampler(subject, op, mode, stack))
                    results.append(Measured(verified=True))
                except WrongData as error:
                    results.append(error)
                self._progress()
            timed = iter(self._time(samplers))
            return [result if isinstance(result, WrongData) else next(timed) for result in results]

    def _verified_sampler(self, subject: Subject, op: str, mode: str, stack: ExitStack) -> Sampler:
        operation = OPERATIONS[op](subject)
        subject.make_possible(operation)
        operation.enqueue_all()  # some libraries compile in their first call, which a graph cannot hold
        self._device.synchronize()
        sampler = stack.enter_context(closing(SAMPLERS[mode](self._device, operation)))
        subject.spoil()
        sampler.once()
        subject.check(operation)
        return sampler

    def _time(self, samplers: list[Sampler]) -> list[Measured]:
        for sampler in samplers:
            sampler.sample(max(self._warmup, 1))
            if isinstance(sampler, HostSampler):
                sampler.call_us.clear()
        rounds: list[list[list[float]]] = [[] for _ in samplers]
        for number in range(self._rounds):
            turn = list(zip(samplers, rounds, strict=True))
            for sampler, times in turn if number % 2 == 0 else reversed(turn):
                times.append(sampler.sample(self._per_round))
            self._progress()
        slowest = [slowest_rank(np.asarray(self._peers.all_gather(times))) for times in rounds]
        return [
            self._measured(sampler, times, slowest[0] if sampler is not samplers[0] else None)
            for sampler, times in zip(samplers, slowest, strict=True)
        ]

    def _measured(self, sampler: Sampler, times: Times, reference: Times | None) -> Measured:
        call_us = None
        if isinstance(sampler, HostSampler):
            everyone = np.asarray(self._peers.all_gather(sampler.call_us))
            call_us = percentile(slowest_rank(everyone), 50)
        return Measured(
            verified=True,
            p50_us=percentile(times, 50),
            p99_us=percentile(times, 99),
            host_call_us=call_us,
            ratio=ratio_of(reference, times) if reference is not None and reference.all() else None,
        )


class SimMeter:
    """Bytes that crossed links. The run that is verified is the one that is counted."""

    def __init__(self, device: SimDevice, progress: Progress) -> None:
        self._device, self._progress = device, progress

    def measure(self, subjects: list[Subject], op: str, mode: str) -> list[Measured | WrongData]:
        return [self._measure(subject, op, mode) for subject in subjects]

    def _measure(self, subject: Subject, op: str, mode: str) -> Measured | WrongData:
        operation = OPERATIONS[op](subject)
        try:
            subject.make_possible(operation)
            sent = self._count_in(mode, subject, operation)
            subject.check(operation)
            make(operation.after)
        except WrongData as error:
            return error
        finally:
            self._progress()
        return Measured(verified=True, remote_bytes=sent)

    def _count_in(self, mode: str, subject: Subject, operation: Operation) -> float:
        if mode == "host":
            return self._count(subject, operation, operation.enqueue)
        with self._device.capture() as graph:
            operation.enqueue()
        sent = self._count(subject, operation, graph.launch)
        graph.close()
        return sent

    def _count(self, subject: Subject, operation: Operation, action: Callable[[], None]) -> float:
        subject.spoil()
        make(operation.before)
        self._device.synchronize()
        return self._device.count_bytes(action)

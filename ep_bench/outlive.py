# SPDX-License-Identifier: Apache-2.0
"""The run of ``--kill``: iterations, of a rank that dies and of others that go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from statistics import median

from ep_bench.expect import WrongData
from ep_bench.inputs import Inputs, inputs_of
from ep_bench.kill import Aftermath, Kill, Survivor
from ep_bench.operations import OPERATIONS
from ep_bench.oracle import combined
from ep_bench.subject import Subject
from ep_bench.verify import check_combine, check_dispatch

Progress = Callable[[], None]


def outlive(subject: Subject, kill: Kill, mode: str, iters: int, progress: Progress) -> Aftermath:
    """Exchanges again and again, ``kill.rank`` with the others until it dies.

    Every rank calls it; where ranks are processes, the one that dies does not return.
    """
    case, peers = subject.case, subject.peers
    operation = OPERATIONS["pair"](subject)
    with ExitStack() as stack:
        act = operation.enqueue
        if mode == "graph":
            with subject.device.capture() as graph:
                operation.enqueue()
            stack.enter_context(closing(graph))
            act = graph.launch
        subject.spoil()
        act()
        try:
            subject.check(operation)
        except WrongData as error:
            patience = f"kernels wait {case.timeout_ns} ns (--timeout-ns)"
            raise WrongData(f"{case}, before rank {kill.rank} died, where {patience}: {error}") from None
        found = _iterate(act, subject, kill, iters, progress)
    peers.forget(kill.rank)
    everyone = peers.all_gather(None if found is None else asdict(found))
    survivors = [Survivor(**said) for said in everyone if said is not None]
    return Aftermath(str(case), kill, case.timeout_ns, survivors)


def _iterate(
    act: Callable[[], None], subject: Subject, kill: Kill, iters: int, progress: Progress
) -> Survivor | None:
    """What a rank has seen, or None if it has died."""
    device, rank = subject.device, subject.peers.rank
    times = []
    for iteration in range(iters):
        if Kill(rank, iteration) == kill:
            device.die()
            return None
        start = device.now_ns()
        act()
        device.synchronize()
        times.append((device.now_ns() - start) / 1e3)
        progress()
    loss = subject.loss()
    return Survivor(
        rank,
        median(times),
        max(times[kill.iteration - 1 :]),  # what it has put into the network last may be lost with it
        subject.masked_ranks(),
        loss,
        _what_is_wrong(act, subject, without(subject.inputs, kill.rank)),
    )


def without(inputs: Inputs, lost: int) -> Inputs:
    """What is exchanged when a rank is gone, in the room that there was."""
    budget = inputs.zones.budget or inputs.case.budget
    return inputs_of(replace(inputs.case, lost=lost, budget=budget))


def _what_is_wrong(act: Callable[[], None], subject: Subject, inputs: Inputs) -> str | None:
    """Exchanges once more, and compares with what the ranks that are left must have.

    Behind an update, in which high throughput counts without the lost rank.
    """
    device, rank = subject.device, subject.peers.rank
    subject.buffers.poison()
    subject.update()
    act()
    device.synchronize()
    zones = [
        [[int(token) for token in zone.tokens] for zone in inputs.zones.of_rank(peer)]
        for peer in range(inputs.case.num_ranks)
    ]
    try:
        check_dispatch(device, subject.buffers, inputs, rank, ordered=True)
        check_combine(device, subject.buffers, inputs, rank, combined(inputs, rank, zones))
    except WrongData as error:
        return str(error)
    return None

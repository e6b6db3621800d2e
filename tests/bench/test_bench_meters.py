# SPDX-License-Identifier: Apache-2.0
"""The code that takes times on GPUs, on the simulator in their place: times mean nothing, the rest does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any, ClassVar

import nccl_ep
import pytest
from bench_cases import case
from nccl_ep import sim

from ep_bench import modes
from ep_bench.devices.sim import SimDevice, SimPeers
from ep_bench.library import Library
from ep_bench.measure import CudaMeter
from ep_bench.operations import OPERATIONS
from ep_bench.options import parse, settle
from ep_bench.report.screen import Nobody
from ep_bench.rows import Row, Setup
from ep_bench.runner import Runner, libraries

pytestmark = pytest.mark.sim_only

ARGUMENTS = [
    "--tokens",
    "4",
    "--hidden",
    "64",
    "--experts",
    "4",
    "--top-k",
    "2",
    "--iters",
    "6",
    "--warmup",
    "1",
]
SETUP = Setup("cuda", 2, 2, 1, "2 x pretended", {}, {0: 300.0}, [])


@dataclass
class HostEvent:
    """A moment on the host."""

    ns: int = 0

    def microseconds_since(self, start: HostEvent) -> float:
        return (self.ns - start.ns) / 1e3


class TimedSimDevice(SimDevice):
    """A simulated GPU that does what a real one is asked for when times are taken."""

    def __init__(self, rank: sim.Rank, cluster: sim.Cluster) -> None:
        super().__init__(rank, cluster)
        self.align_ranks = rank.barrier
        self.event = HostEvent

    def record(self, event: HostEvent) -> None:
        self.synchronize()
        event.ns = perf_counter_ns()

    def record_in_graph(self, event: HostEvent) -> None:
        event.ns = perf_counter_ns()


def measure(*arguments: str, others: tuple[str, ...] = ()) -> list[Row]:
    options = settle(parse([*ARGUMENTS, *arguments]), "cuda", 2)
    slots: list[Any] = [None, None]

    def act(rank: sim.Rank) -> list[Row]:
        device, peers = TimedSimDevice(rank, cluster), SimPeers(rank, slots)
        meter = CudaMeter(device, peers, options.iters, options.warmup, lambda: None)  # type: ignore[arg-type]
        runner = Runner(options, device, peers, meter, SETUP, Nobody(), [])
        with ExitStack() as stack:
            found = libraries(options, device, stack)
            found += [replace(found[0], name=name, ordered=False) for name in others]
            runner.run(options.sweep.cases(2, 1), found, options.modes)
        return runner.rows

    with sim.Cluster(gpus_per_node=2) as cluster:
        rows, same = cluster.run(act)
    assert rows == same
    return rows


def test_times_are_taken_in_graphs_and_calls():
    rows = measure("--mode", "graph,host", "--layout", "em")
    assert len(rows) == 10
    for row in rows:
        assert row.verified
        assert 0 < row.p50_us <= row.p99_us
        assert (row.host_call_us is not None) == (row.mode == "host")
        assert (row.remote_gbps is None) == (row.op == "update")


@pytest.mark.parametrize("options", [(), ("--pass", "bwd", "--zero-copy")], ids=["forward", "backward"])
def test_times_are_taken_in_high_throughput(options):
    few = ("--layout", "fl", "--op", "dispatch,combine,step", "--iters", "2")
    rows = measure("--algorithm", "ht", "--mode", "graph,host", *few, *options)
    assert len(rows) == 6
    for row in rows:
        assert row.verified
        assert 0 < row.p50_us <= row.p99_us


def test_libraries_are_compared_with_the_first():
    rows = measure("--mode", "host", "--op", "pair", others=("other",))
    assert [row.library for row in rows] == ["nccl_ep", "other"] * 2
    assert all(row.ratio is None for row in rows[::2])
    assert all(row.ratio.low <= row.ratio.median <= row.ratio.high for row in rows[1::2])


@dataclass
class Turns:
    """Calls that note their names."""

    alternates: bool

    def __post_init__(self) -> None:
        self.made: list[str] = []
        self.update, self.dispatch, self.combine = (
            partial(self.made.append, name) for name in ("update", "dispatch", "combine")
        )


@pytest.mark.parametrize("op", ["dispatch", "combine", "pair", "step"])
@pytest.mark.parametrize("mode", ["kernel", "graph", "host"])
def test_dispatch_and_combine_are_called_in_turn(op: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(alternates=True)
    device = FakeDevice(turns)
    monkeypatch.setattr(modes, "KernelTimes", device.kernel_times)
    sampler = modes.SAMPLERS[mode](device, OPERATIONS[op](turns))  # type: ignore[arg-type]
    sampler.once()
    times = sampler.sample(3)
    assert len(times) == 3
    rows = [name for name in turns.made if name != "update"]
    assert rows == ["dispatch", "combine"] * (len(rows) // 2)
    if mode != "host":  # where time passes for calls alone
        per_call = {"dispatch": 5, "combine": 7, "update": 1}
        assert times == [sum(per_call[call.args[0]] for call in OPERATIONS[op](turns).calls)] * 3


class FakeDevice:
    """Where a call takes as long as its name says, in microseconds, and nothing else takes any time."""

    DURATIONS: ClassVar[dict[str, float]] = {"update": 1, "dispatch": 5, "combine": 7}

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.event = HostEvent

    def record(self, event: HostEvent) -> None:
        event.ns = int(sum(map(self.DURATIONS.__getitem__, self._turns.made)) * 1e3)

    record_in_graph = record

    @contextmanager
    def capture(self) -> Iterator[Any]:
        first = len(self._turns.made)
        graph = SimpleNamespace(launch=lambda: self._turns.made.extend(captured), close=lambda: None)
        yield graph
        captured = self._turns.made[first:]

    @contextmanager
    def kernel_times(self) -> Iterator[Any]:
        first, found = len(self._turns.made), SimpleNamespace(durations_us=[])
        yield found
        found.durations_us = [self.DURATIONS[name] for name in self._turns.made[first:]]

    def align_ranks(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def other_library(has_our_addition: bool) -> Library:
    code = SimpleNamespace(c=SimpleNamespace(**({"ncclEpGetLastError": None} if has_our_addition else {})))
    return Library("other", "0.2.0", code, None, ordered=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 8193}, "8193 tokens, expected at most 8192"),
        ({"sms": 24}, "24 SMs, expected at most 16"),
        ({"tokens": 8192, "sms": 16}, None),
        ({"algorithm": "ll", "layout": "em", "tokens": 9000, "sms": 24}, None),
    ],
)
def test_other_libraries_are_not_asked_for_what_they_cannot_do_without_saying(changes, reason):
    of = case(**{"algorithm": "ht", "layout": "fl", **changes})
    found = other_library(has_our_addition=False).why_not(of)
    assert found == reason or (reason and found and found.startswith(reason))
    assert other_library(has_our_addition=True).why_not(of) is None


def test_a_library_that_cannot_do_a_case_is_left_out(monkeypatch):
    from ep_bench import runner as module

    class Picky(module.Subject):
        def __init__(self, library, *args):
            if library.name == "picky":
                raise nccl_ep.InvalidArgument(4, "hidden is 64, expected more")
            super().__init__(library, *args)

    monkeypatch.setattr(module, "Subject", Picky)
    rows = measure("--mode", "host", "--op", "pair", "--layout", "em", others=("picky",))
    assert [row.library for row in rows] == ["nccl_ep"]


@pytest.mark.parametrize("call", ["dispatch", "combine"])
def test_a_library_that_refuses_a_call_is_left_out_on_all_ranks(monkeypatch, call):
    from ep_bench import runner as module

    complaints: list[str] = []

    class Late(module.Subject):
        def _set_up(self) -> None:
            super()._set_up()
            if self.library.name == "late" and self.peers.rank == 1:
                setattr(self, call, self._refuse)

        def _refuse(self) -> None:
            raise nccl_ep.InvalidUsage(5, "there is no network")

    monkeypatch.setattr(module, "Subject", Late)
    monkeypatch.setattr(Nobody, "complain", lambda _, text: complaints.append(text))
    options = ("--layout", "fl", "--algorithm", "ht", "--mode", "host", "--op", "step")
    rows = measure(*options, others=("late", "other"))
    assert [row.library for row in rows] == ["nccl_ep", "other"]
    assert all(row.verified for row in rows)
    assert len(complaints) == 2
    assert all("late cannot: rank 1: there is no network" in text for text in complaints)

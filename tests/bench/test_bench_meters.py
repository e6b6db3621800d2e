# SPDX-License-Identifier: Apache-2.0
"""The code that takes times on GPUs, on the simulator in their place: times mean nothing, the rest does."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

import nccl_ep
import pytest
from nccl_ep import sim

from ep_bench.devices.sim import SimDevice, SimPeers
from ep_bench.measure import CudaMeter
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
SETUP = Setup("cuda", 2, 2, 1, "2 x pretended", {}, 300.0, [])


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


def measure(*arguments: str, others: tuple[str, ...] = ()) -> list[Row]:
    options = settle(parse([*ARGUMENTS, *arguments]), "cuda", 2)
    slots: list[Any] = [None, None]

    def act(rank: sim.Rank) -> list[Row]:
        device, peers = TimedSimDevice(rank, cluster), SimPeers(rank, slots)
        meter = CudaMeter(device, peers, options.iters, options.warmup, lambda: None)  # type: ignore[arg-type]
        runner = Runner(options, device, peers, meter, SETUP, Nobody())
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


def test_libraries_are_compared_with_the_first():
    rows = measure("--mode", "host", "--op", "pair", others=("other",))
    assert [row.library for row in rows] == ["nccl_ep", "other"] * 2
    assert all(row.ratio is None for row in rows[::2])
    assert all(row.ratio.low <= row.ratio.median <= row.ratio.high for row in rows[1::2])


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

# SPDX-License-Identifier: Apache-2.0
"""A run on simulated GPUs: all ranks are threads of this process."""

from __future__ import annotations

import sys
import traceback
from contextlib import ExitStack
from typing import Any

import nccl_ep
from nccl_ep import sim

from ep_bench.cases import Case
from ep_bench.devices.sim import SimDevice, SimPeers
from ep_bench.exits import Exit, UsageError
from ep_bench.finish import console_for, report, report_aftermath, report_incomplete
from ep_bench.kill import Aftermath
from ep_bench.launch.watchdog import Watchdog
from ep_bench.measure import SimMeter
from ep_bench.options import Options
from ep_bench.outlive import outlive
from ep_bench.report.screen import Nobody, Screen
from ep_bench.rows import Row, Setup
from ep_bench.runner import Runner, libraries, open_subject, refusals_of
from ep_bench.zones import most_rows

_SMALLEST_MEMORY = 1 << 30


def run_cluster(options: Options, notes: list[str]) -> int:
    """Runs everything and returns the exit code."""
    cases = options.sweep.cases(options.ranks, options.seed, options.nodes or 1)
    cluster = _cluster(options, cases)
    setup = _setup(options, cluster, notes)
    slots: list[Any] = [None] * options.ranks
    rows: list[Row] = []

    def survive(rank: sim.Rank) -> Aftermath:
        assert options.kill is not None
        audience = screen if rank.rank == 0 else Nobody()
        device, peers = SimDevice(rank, cluster), SimPeers(rank, slots)
        audience.begin(setup, options.iters)
        with refusals_of(cases[0]), ExitStack() as stack:
            library = libraries(options, device, stack)[0]
            subject = open_subject(library, cases[0], device, peers)
            found = outlive(subject, options.kill, options.modes[0], options.iters, audience.advance)
            if rank.rank == options.kill.rank:
                device.revive()
            subject.close_without(options.kill.rank)
        return found

    def act(rank: sim.Rank) -> None:
        audience = screen if rank.rank == 0 else Nobody()
        device, peers = SimDevice(rank, cluster), SimPeers(rank, slots)
        found = rows if rank.rank == 0 else []
        runner = Runner(options, device, peers, SimMeter(device, audience.fed), setup, audience, found)
        audience.begin(setup, len(cases) * len(options.ops) * len(options.modes))
        with ExitStack() as stack:
            runner.run(cases, libraries(options, device, stack), options.modes)

    watchdog = Watchdog(options.timeout)
    with Screen(console_for(options), watchdog) as screen, cluster:
        watchdog.last_words = lambda: report_incomplete(options, setup, list(rows), screen)
        try:
            if options.kill is not None:
                return report_aftermath(options, cluster.run(survive)[0], screen)
            cluster.run(act)
        except BaseException as error:
            report_incomplete(options, setup, list(rows), screen)
            if cluster.failure is sim.Failure.NONE or isinstance(error, (UsageError, KeyboardInterrupt)):
                raise
            return _explain(error, cluster)
        return report(options, setup, rows, screen)


def _cluster(options: Options, cases: list[Case]) -> sim.Cluster:
    nodes = options.nodes or 1
    memory = max(_SMALLEST_MEMORY, *(_memory_of(case) for case in cases))
    try:
        return sim.Cluster(nodes, options.ranks // nodes, seed=options.seed, memory_bytes=memory)
    except nccl_ep.Error as error:
        raise UsageError(f"--ranks {options.ranks} on --nodes {nodes}: {error}") from None


def _explain(error: BaseException, cluster: sim.Cluster) -> int:
    if not isinstance(error, nccl_ep.Error):  # whose message is the report below
        traceback.print_exc()
    print(f"ep_bench: the simulation ended with a {cluster.failure.name}:\n{cluster.report}", file=sys.stderr)
    return Exit.HANG


def _setup(options: Options, cluster: sim.Cluster, notes: list[str]) -> Setup:
    config = cluster.config
    return Setup(
        device="sim",
        ranks=options.ranks,
        lsa_team_size=config["lsa_team_size"],
        nodes=config["num_nodes"],
        description=f"simulated GPUs with {config['sms_per_gpu']} SMs, seed {cluster.seed}",
        versions={"nccl_ep": str(nccl_ep.get_lib_version())},
        ceilings={},
        notes=notes,
    )


def _memory_of(case: Case) -> int:
    """Enough for a case's buffers and the library's own, of which only what is touched is really used."""
    rows = max(most_rows(case), case.budget) + case.num_ranks * case.tokens
    return 6 * rows * case.most_row_bytes

# SPDX-License-Identifier: Apache-2.0
"""A run on GPUs, as one rank of it."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import nccl_ep

from ep_bench.cases import Case
from ep_bench.devices import driver, nccl
from ep_bench.devices.cuda import CudaDevice
from ep_bench.devices.kernel_times import why_missing, why_not_working
from ep_bench.devices.nvrtc import CompileError
from ep_bench.exits import INTERRUPTED, UsageError, exit_for, message_of
from ep_bench.finish import console_for, exit_code, report, report_aftermath, report_incomplete
from ep_bench.kill import Kill
from ep_bench.launch.environment import Place
from ep_bench.launch.nodes import check_nodes, count_nodes, is_loopback
from ep_bench.launch.peers import meet
from ep_bench.launch.watchdog import Watchdog
from ep_bench.library import Library
from ep_bench.measure import CudaMeter
from ep_bench.options import Options
from ep_bench.outlive import outlive
from ep_bench.probe import push_ceiling_gbps
from ep_bench.report.screen import Nobody, Screen
from ep_bench.rows import CASE_NAMES, Row, Setup
from ep_bench.runner import Audience, Runner, libraries, open_subject, refusals_of

LOOPBACK_NOTE = "between nodes, the loopback plugin copies inside this host: times tell nothing of a network"


def run_rank(options: Options, place: Place) -> int:
    """Runs everything on this rank and returns the exit code.

    After an error the process ends at once: tidying up is collective, and peers may wait for something else.
    """
    try:
        return _run(options, place)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except BaseException as error:
        message = message_of(error)
        print(f"ep_bench: rank {place.rank}: {message or 'failed'}", file=sys.stderr)
        if message is None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_for(error))


def _run(options: Options, place: Place) -> int:
    watchdog = Watchdog(options.timeout if place.rank == 0 else None)
    screen = Screen(console_for(options), watchdog) if place.rank == 0 else None
    audience = screen or Nobody()
    peers = meet(place)
    device = CudaDevice(place.local_rank % driver.num_gpus(), peers)  # a launcher may show each rank its own
    lsa_team_size = device.world.lsa_team_size()
    check_nodes(options.nodes, place.num_ranks, lsa_team_size)
    cases = options.sweep.cases(place.num_ranks, options.seed, place.num_ranks // lsa_team_size)
    with ExitStack() as stack:
        found = libraries(options, device, stack)
        if options.kill is not None:
            _survive(options, options.kill, cases[0], found, device, screen)
        modes, notes = _possible_modes(options, peers)
        setup = _setup(options, device, lsa_team_size, found, notes)
        meter = CudaMeter(device, peers, options.iters, options.warmup, audience.fed)
        runner = Runner(options, device, peers, meter, setup, audience, [])
        audience.begin(setup, len(cases) * len(options.ops) * len(modes))

        def report_what_there_is() -> None:
            if screen is not None:
                report_incomplete(options, setup, _in_order(runner.rows, modes), screen)

        watchdog.last_words = report_what_there_is
        try:
            _measure(runner, cases, found, modes, peers, audience)
        except BaseException:
            report_what_there_is()
            raise
    peers.close()
    if screen is None:
        return exit_code(runner.rows)
    with screen:
        return report(options, setup, _in_order(runner.rows, modes), screen)


def _measure(
    runner: Runner, cases: list[Case], found: list[Library], modes: list[str], peers: Any, audience: Audience
) -> None:
    without_cupti = [mode for mode in modes if mode != "kernel"]
    if without_cupti:
        runner.run(cases, found, without_cupti)
    # CUPTI stays in the process once it was used, so what it might slow down comes first.
    if "kernel" in modes:
        reason = _any_reason(peers.all_gather(why_not_working()))
        if reason:
            audience.complain(reason)
        else:
            runner.run(cases, found, ["kernel"])


def _survive(
    options: Options, kill: Kill, case: Case, found: list[Library], device: CudaDevice, screen: Screen | None
) -> NoReturn:
    """A run in which a rank dies. Ends the process: NCCL's communicators still have the rank that is gone."""
    audience, peers = screen or Nobody(), device.peers
    setup = _setup(options, device, device.world.lsa_team_size(), found, [])
    audience.begin(setup, options.iters)
    with refusals_of(case):
        subject = open_subject(found[0], case, device, peers)
        aftermath = outlive(subject, kill, options.modes[0], options.iters, audience.advance)
    code = aftermath.exit_code if screen is None else report_aftermath(options, aftermath, screen)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _possible_modes(options: Options, peers: Any) -> tuple[list[str], list[str]]:
    """The modes that work on all ranks, and notes about the others."""
    if "kernel" not in options.modes:
        return list(options.modes), []
    reason = _any_reason(peers.all_gather(why_missing()))
    if reason is None:
        return list(options.modes), []
    return [mode for mode in options.modes if mode != "kernel"], [reason]


def _any_reason(reasons: list[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)


def _setup(
    options: Options, device: CudaDevice, lsa_team_size: int, found: list[Library], notes: list[str]
) -> Setup:
    peers = device.peers
    hosts = peers.all_gather(platform.node())
    names = peers.all_gather(device.gpu.name)
    if is_loopback(os.environ):
        notes = [*notes, LOOPBACK_NOTE]
    ceilings, note = _ceilings(device, lsa_team_size, options.sweep.sms)
    versions = {library.name: library.version for library in found}
    versions["library"] = str(Path(nccl_ep.get_lib_path()))
    return Setup(
        device="cuda",
        ranks=peers.num_ranks,
        lsa_team_size=lsa_team_size,
        nodes=count_nodes(hosts, lsa_team_size, os.environ),
        description=", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)),
        versions={**versions, "NCCL": nccl.version(), "CUDA driver": driver.driver_version()},
        ceilings=ceilings,
        notes=notes + note,
    )


def _ceilings(
    device: CudaDevice, lsa_team_size: int, sms: tuple[int, ...]
) -> tuple[dict[int, float], list[str]]:
    if not 1 < device.world.num_ranks == lsa_team_size:
        return {}, ["no ceiling: the push probe needs all ranks in one LSA team"]
    try:
        return {num_sms: push_ceiling_gbps(device, device.world, num_sms) for num_sms in sms}, []
    except (CompileError, UsageError) as error:  # the same on all ranks
        return {}, [f"no ceiling: {error}"]


def _in_order(rows: list[Row], modes: list[str]) -> list[Row]:
    """Rows by case again, after modes were measured in turn."""
    first_seen = {key: i for i, key in reversed(list(enumerate(map(_case_key, rows))))}
    return sorted(rows, key=lambda row: (first_seen[_case_key(row)], modes.index(row.mode)))


def _case_key(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in CASE_NAMES)

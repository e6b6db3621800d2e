# SPDX-License-Identifier: Apache-2.0
"""The command ``ep_bench``: picks a device, has ranks started or becomes one, and reports."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from ep_bench.devices.driver import num_gpus
from ep_bench.exits import INTERRUPTED, Exit, UsageError, exit_for, message_of
from ep_bench.launch.environment import Place, find_place
from ep_bench.launch.nodes import variables_for
from ep_bench.launch.supervisor import run_ranks
from ep_bench.memory import check_memory
from ep_bench.options import Options, parse, settle
from ep_bench.report.files import check_targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parse(arguments)
    try:
        return _run(given, arguments)
    except KeyboardInterrupt:
        print("ep_bench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        message = message_of(error)
        if message is None:
            traceback.print_exc()
        else:
            print(f"ep_bench: {message}", file=sys.stderr)
        return exit_for(error)


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    place = find_place(os.environ)
    device, note = _pick_device(given, place)
    if device == "sim":
        return _run_sim(settle(given, "sim", None), place, note)
    if place is not None:
        from ep_bench.cuda_main import run_rank

        options = settle(given, "cuda", place.num_ranks)
        if place.rank == 0:  # which writes the files, for all
            check_before_starting(options)
        return run_rank(options, place)
    options = settle(given, "cuda", None if given.ranks else num_gpus())
    if options.ranks > num_gpus():
        raise UsageError(f"--ranks {options.ranks}: expected at most the {num_gpus()} GPUs of this host")
    check_before_starting(options)
    variables = variables_for(options.nodes, options.ranks, os.environ)
    return run_ranks(arguments, options.ranks, variables, options.kill.rank if options.kill else None)


def _run_sim(options: Options, place: Place | None, note: str | None) -> int:
    if place is not None and place.rank > 0:
        return Exit.OK  # rank 0's process simulates them all
    from ep_bench.sim_main import run_cluster

    check_before_starting(options)
    return run_cluster(options, [note] if note else [])


def _pick_device(given: argparse.Namespace, place: Place | None) -> tuple[str, str | None]:
    """The device, and what there is to say about the choice."""
    if given.device == "sim":
        return "sim", None
    gpus = num_gpus()
    enough = gpus >= (1 if place is not None else 2)
    if enough or given.device == "cuda":
        if not enough:
            raise UsageError(
                f"--device cuda: this host has {gpus} GPUs that can be used, expected at least 2"
            )
        return "cuda", None
    return "sim", f"this host has {gpus} GPUs, so they are simulated: bytes are real, there are no times"


def check_before_starting(options: Options) -> None:
    """Raises UsageError for what would fail on every rank, or only at the end."""
    check_targets({"--json": options.json, "--csv": options.csv, "--plot": options.plot})
    for case in options.sweep.cases(options.ranks, options.seed, options.nodes or 1):
        check_memory(case, options.device, options.ops)
    if options.plot:
        from ep_bench.report.plot import require_matplotlib

        require_matplotlib()

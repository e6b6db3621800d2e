# SPDX-License-Identifier: Apache-2.0
"""Starts one process a rank on this host and sees to it that none outlives the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ep_bench.exits import Exit
from ep_bench.launch.environment import environment_of

_GRACE_S = 5.0
_POLL_S = 0.05


def run_ranks(
    arguments: Sequence[str], num_ranks: int, variables: Mapping[str, str], victim: int | None = None
) -> int:
    """Runs ``ep_bench`` with these arguments on every rank; returns the exit code of all of them together.

    Ranks have this process's environment, in which ``variables`` replace those of the same names.

    The first rank that fails decides. The others get a few seconds to say what they know, then they are
    ended.

    Args:
        arguments: of the command.
        num_ranks: how many processes.
        variables: of their environment.
        victim: a rank that is expected to kill itself.
    """
    with TemporaryDirectory(prefix="ep_bench_") as folder:
        meeting = Path(folder, "meeting")
        environments = [{**variables, **environment_of(r, num_ranks, meeting)} for r in range(num_ranks)]
        ranks = [_start(arguments, environment) for environment in environments]
        try:
            return _wait(ranks, victim)
        except KeyboardInterrupt:
            _await_end(ranks)
            raise
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()


def _start(arguments: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ep_bench", *arguments], env={**os.environ, **variables})


def _wait(ranks: list[subprocess.Popen[bytes]], victim: int | None) -> int:
    failure: int | None = None
    give_up = float("inf")
    while None in [rank.poll() for rank in ranks] and time.monotonic() < give_up:
        codes = _failures(ranks, victim)
        if codes and failure is None:
            failure = _meaning(codes)
            give_up = time.monotonic() + _GRACE_S
        time.sleep(_POLL_S)
    codes = _failures(ranks, victim)
    for number, rank in enumerate(ranks):
        if rank.returncode is not None and rank.returncode < 0:
            print(f"ep_bench: rank {number} was ended by signal {-rank.returncode}", file=sys.stderr)
    return failure if failure is not None else _meaning(codes) if codes else Exit.OK


def _await_end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Gives ranks that were interrupted as well the time to report what they have."""
    give_up = time.monotonic() + _GRACE_S
    while None in [rank.poll() for rank in ranks] and time.monotonic() < give_up:
        time.sleep(_POLL_S)


def _failures(ranks: list[subprocess.Popen[bytes]], victim: int | None) -> list[int]:
    """The codes of those that have failed, other than the victim by its own hand."""
    codes = {number: rank.returncode for number, rank in enumerate(ranks) if rank.returncode}
    if victim is not None and codes.get(victim) == -signal.SIGKILL:
        del codes[victim]
    return list(codes.values())


def _meaning(codes: list[int]) -> int:
    known = [code for code in codes if code in list(Exit)]
    return known[0] if known else Exit.CRASH

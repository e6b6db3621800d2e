# SPDX-License-Identifier: Apache-2.0
"""Finds out from the environment whether this process is one of several ranks, and where the others meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ep_bench.exits import UsageError

MEETING = "EP_BENCH_MEETING"
"""Path of a socket in a private folder, or host:port: where ranks meet. Overrides what launchers say."""

_DEFAULT_PORT = 29_600


@dataclass(frozen=True)
class Place:
    """This process among the ranks.

    Attributes:
        local_rank: number of this process on its host, hence its GPU.
        meeting: where ranks meet: a socket's path, or (host, port); None if MPI brings them together.
    """

    rank: int
    num_ranks: int
    local_rank: int
    meeting: Path | tuple[str, int] | None


def find_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place if a launcher started it, else None. Empty variables count as not set."""
    is_set = {name: value for name, value in environment.items() if value}
    for launcher in (_torchrun, _open_mpi, _slurm):
        place = launcher(is_set)
        if place is not None:
            if place.rank >= place.num_ranks:
                raise UsageError(f"rank {place.rank} of {place.num_ranks} in the environment, expected fewer")
            return place
    return None


def environment_of(rank: int, num_ranks: int, socket: Path) -> dict[str, str]:
    """What :func:`find_place` understands, for a rank that is started here."""
    return {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank), MEETING: str(socket)}


def _torchrun(environment: Mapping[str, str]) -> Place | None:
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    rank = _number(environment, "RANK")
    local_rank = _number({"LOCAL_RANK": str(rank), **environment}, "LOCAL_RANK")
    return Place(rank, _number(environment, "WORLD_SIZE"), local_rank, _meeting(environment))


def _open_mpi(environment: Mapping[str, str]) -> Place | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    rank, num_ranks, local_rank = (
        _number(environment, f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK")
    )
    if MEETING in environment or "MASTER_ADDR" in environment:
        return Place(rank, num_ranks, local_rank, _meeting(environment))
    return Place(rank, num_ranks, local_rank, None)


def _slurm(environment: Mapping[str, str]) -> Place | None:
    # Only srun sets the number of tasks of a step; a shell inside an allocation is no rank.
    if "SLURM_STEP_NUM_TASKS" not in environment or _number(environment, "SLURM_STEP_NUM_TASKS") < 2:
        return None
    rank, local_rank = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
    host = _first_host(environment.get("SLURM_STEP_NODELIST", ""))
    port = _DEFAULT_PORT + _number({"SLURM_JOB_ID": "0", **environment}, "SLURM_JOB_ID") % 10_000
    meeting = _meeting({"MASTER_ADDR": host, "MASTER_PORT": str(port), **environment})
    return Place(rank, _number(environment, "SLURM_STEP_NUM_TASKS"), local_rank, meeting)


def _meeting(environment: Mapping[str, str]) -> Path | tuple[str, int]:
    if MEETING in environment:
        given = environment[MEETING]
        if "/" in given:
            return Path(given)
        host, _, port = given.rpartition(":")
        if not (host and port.isdecimal()):
            raise UsageError(f"{MEETING} is {given!r}, expected host:port or the path of a socket")
        return host, int(port)
    if "MASTER_ADDR" not in environment:
        raise UsageError(f"ranks were started, but not told where to meet: set MASTER_ADDR or {MEETING}")
    launchers_port = _number({"MASTER_PORT": str(_DEFAULT_PORT), **environment}, "MASTER_PORT")
    return environment["MASTER_ADDR"], launchers_port + 1  # the launcher itself may listen on its own


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.strip().isdecimal():
        raise UsageError(f"{name} is {text!r} in the environment, expected a number, as a launcher sets it")
    return int(text)


def _first_host(node_list: str) -> str:
    """The first of Slurm's compressed list of hosts: ``gpu[03-05,9],login1`` begins with ``gpu03``."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", node_list)
    if match is None:
        raise UsageError(f"SLURM_STEP_NODELIST is {node_list!r}, expected a list of hosts")
    return match[1] + (match[2] or "")

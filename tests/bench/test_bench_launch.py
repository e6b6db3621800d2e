# SPDX-License-Identifier: Apache-2.0
"""Ranks: found in the environment, brought together, supervised."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ep_bench.cli import main
from ep_bench.exits import Exit, PeerLost, UsageError
from ep_bench.launch import supervisor
from ep_bench.launch.environment import MEETING, Place, environment_of, find_place
from ep_bench.launch.peers import SocketPeers

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
SLURM = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "1234567"}
SLURM_PLACE = Place(5, 8, 1, ("one", 34168))


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (TORCHRUN, Place(3, 8, 1, ("head", 29501))),
        (OPEN_MPI, Place(2, 4, 0, None)),
        ({**OPEN_MPI, "MASTER_ADDR": "head", "MASTER_PORT": "7000"}, Place(2, 4, 0, ("head", 7001))),
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu[03-04,9],x1"}, Place(5, 8, 1, ("gpu03", 34168))),
        ({**SLURM, "SLURM_STEP_NODELIST": "one"}, SLURM_PLACE),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a shell inside an allocation
        ({**TORCHRUN, MEETING: "other:99"}, Place(3, 8, 1, ("other", 99))),
        (environment_of(2, 4, Path("/tmp/x/meeting")), Place(2, 4, 2, Path("/tmp/x/meeting"))),
        (dict.fromkeys((*TORCHRUN, *OPEN_MPI, *SLURM, MEETING), ""), None),
        ({**dict.fromkeys((*TORCHRUN, MEETING), ""), **SLURM, "SLURM_STEP_NODELIST": "one"}, SLURM_PLACE),
        ({**TORCHRUN, "LOCAL_RANK": "", "MASTER_PORT": "", MEETING: ""}, Place(3, 8, 3, ("head", 29601))),
    ],
    ids=[
        "none",
        "torchrun",
        "mpirun",
        "mpirun with address",
        "srun",
        "srun on one host",
        "salloc",
        "told",
        "own",
        "all empty",
        "srun among empty ones",
        "torchrun with empty ones",
    ],
)
def test_a_launcher_tells_each_process_its_place(environment, place):
    assert find_place(environment) == place


def test_ranks_that_cannot_find_each_other_are_told_what_to_set():
    with pytest.raises(UsageError, match=r"set MASTER_ADDR or EP_BENCH_MEETING"):
        find_place({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "RANK": "abc"}, "RANK is 'abc' in the environment, expected a number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8 of 8 in the environment, expected fewer"),
        ({**TORCHRUN, "WORLD_SIZE": " "}, "WORLD_SIZE is ' '"),
        ({**TORCHRUN, "LOCAL_RANK": "one"}, "LOCAL_RANK is 'one'"),
        ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({**TORCHRUN, MEETING: "head"}, "EP_BENCH_MEETING is 'head', expected host:port or the path"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE is ''"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
        (SLURM, "SLURM_STEP_NODELIST is '', expected a list of hosts"),
    ],
    ids=str,
)
def test_what_no_launcher_would_set_is_named(environment, message):
    with pytest.raises(UsageError, match=message):
        find_place(environment)


def test_the_command_names_it_as_well(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "abc")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("ep_bench: RANK is 'abc'")


def in_threads(num_ranks, meeting, act):
    results = [None] * num_ranks

    def run(rank):
        peers = SocketPeers(Place(rank, num_ranks, rank, meeting))
        try:
            results[rank] = act(peers)
        except PeerLost as error:
            results[rank] = error
        finally:
            peers.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_peers_gather_values_in_the_order_of_ranks(tmp_path):
    def act(peers):
        return [peers.all_gather({"rank": peers.rank, "times": [0.5] * 1000}) for _ in range(3)][-1]

    results = in_threads(4, tmp_path / "meeting", act)
    assert all([value["rank"] for value in values] == [0, 1, 2, 3] for values in results)


def test_peers_of_several_hosts_meet_by_tcp():
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    results = in_threads(4, ("localhost", port), lambda peers: peers.all_gather(f"unique id {peers.rank}")[0])
    assert results == ["unique id 0"] * 4


# What each launcher tells the last of 8 ranks on the second of two hosts, by the commands of the docs.
LAST_OF_TWO_HOSTS = {
    "torchrun": {
        "RANK": "15", "WORLD_SIZE": "16", "LOCAL_RANK": "7", "MASTER_ADDR": "head", "MASTER_PORT": "29500"
    },
    "srun": {
        "SLURM_PROCID": "15", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "7",
        "SLURM_STEP_NODELIST": "head,next", "SLURM_JOB_ID": "29901",
    },
    "mpirun": {
        "OMPI_COMM_WORLD_RANK": "15", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "7",
        "MASTER_ADDR": "head",
    },
}  # fmt: skip
MEETINGS = {"torchrun": 29501, "srun": 29600 + 9901 + 1, "mpirun": 29601}


@pytest.mark.parametrize("launcher", LAST_OF_TWO_HOSTS)
def test_launchers_on_two_hosts_are_understood_as_documented(launcher):
    environment = LAST_OF_TWO_HOSTS[launcher]
    assert find_place(environment) == Place(15, 16, 7, ("head", MEETINGS[launcher]))
    assert find_place({**environment, MEETING: "there:1234"}) == Place(15, 16, 7, ("there", 1234))
    text = (Path(__file__).parents[2] / "docs" / "ep_bench.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {launcher} "))
    for name in environment:
        assert name in row or name.replace("OMPI_COMM_WORLD_", "_") in row


def test_a_peer_that_goes_away_is_noticed(tmp_path):
    def act(peers):
        return None if peers.rank == 2 else peers.all_gather(1)

    results = in_threads(3, tmp_path / "meeting", act)
    assert str(results[0]) == "rank 2 went away"
    assert str(results[1]) == "rank 0 went away"


def test_peers_go_on_without_one_that_has_died(tmp_path):
    def act(peers):
        if peers.rank == 2:
            return None
        peers.forget(2)
        return peers.all_gather(peers.rank)

    assert in_threads(4, tmp_path / "meeting", act) == [
        [0, 1, None, 3],
        [0, 1, None, 3],
        None,
        [0, 1, None, 3],
    ]


def supervise(monkeypatch, script: str, num_ranks: int = 3, grace_s: float = 0.5) -> int:
    def start(arguments, variables):
        return subprocess.Popen([sys.executable, "-c", script, variables["RANK"]])

    monkeypatch.setattr(supervisor, "_start", start)
    monkeypatch.setattr(supervisor, "_GRACE_S", grace_s)
    return supervisor.run_ranks([], num_ranks, {})


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(0)", Exit.OK),
        ("sys.exit(3)", Exit.WRONG_DATA),
        ("sys.exit(4 if rank == 1 else 0)", Exit.HANG),
        ("time.sleep(60) if rank else sys.exit(4)", Exit.HANG),
        ("os.kill(os.getpid(), 11) if rank == 2 else time.sleep(60)", Exit.CRASH),
        ("sys.exit(77)", Exit.CRASH),
    ],
)
def test_the_first_rank_that_fails_decides_and_none_is_left_behind(monkeypatch, end, code):
    assert supervise(monkeypatch, f"import os, sys, time; rank = int(sys.argv[1]); {end}") == code


def test_ranks_that_are_interrupted_may_report_what_they_have(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "_wait", interrupt)
    script = f"import sys, time; time.sleep(0.3); open({str(tmp_path)!r} + '/' + sys.argv[1], 'w')"
    with pytest.raises(KeyboardInterrupt):
        supervise(monkeypatch, script, grace_s=20.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    with pytest.raises(KeyboardInterrupt):
        supervise(monkeypatch, "import time; time.sleep(600)")  # but not for long


def test_no_progress_is_a_hang():
    script = (
        "import time; from ep_bench.launch.watchdog import Watchdog; dog = Watchdog(0.5)\n"
        "dog.last_words = lambda: print('what there is') or 1 / 0\n"
        "for _ in range(4): time.sleep(0.2); dog.feed('dispatch of a case')\n"
        "time.sleep(60)"
    )
    end = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert end.returncode == Exit.HANG
    assert "no progress for 0.5 s: dispatch of a case" in end.stderr
    assert end.stdout == "what there is\n"

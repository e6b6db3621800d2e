# SPDX-License-Identifier: Apache-2.0
"""ep_bench --nodes on GPUs: what ranks find in their environment, and what they check. No GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from nccl_ep import loopback, paths

from ep_bench import cli, memory
from ep_bench.exits import Exit, UsageError
from ep_bench.launch import supervisor
from ep_bench.launch.nodes import check_nodes, count_nodes, is_loopback, variables_for

PRINT_ENVIRONMENT = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
"""What is run in a rank's place."""


@pytest.fixture
def ranks_of(monkeypatch, tmp_path):
    """Runs ep_bench on so many GPUs that do not exist, and says what each rank's environment is."""
    real = subprocess.Popen
    started: list[list[str]] = []

    def start(command, env):
        assert command[:3] == [sys.executable, "-m", "ep_bench"]
        started.append(command[3:])
        file = str(tmp_path / f"{env['RANK']}.json")
        return real([sys.executable, "-c", PRINT_ENVIRONMENT, file], env=env)

    def run(num_gpus, *arguments):
        monkeypatch.setattr(cli, "num_gpus", lambda: num_gpus)
        monkeypatch.setattr(memory, "least_memory", lambda: 141 << 30)
        monkeypatch.setattr(supervisor.subprocess, "Popen", start)
        code = cli.main(arguments)
        assert all(command == list(arguments) for command in started)
        return code, [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(len(started))]

    return run


@pytest.mark.parametrize("algorithm", ["ll", "ht"])
def test_ranks_that_are_started_here_get_the_loopback(ranks_of, monkeypatch, algorithm):
    monkeypatch.setenv("NCCL_GIN_ENABLE", "0")  # as NVIDIA's library wants it on one node
    code, ranks = ranks_of(4, "--device", "cuda", "--nodes", "2", "--algorithm", algorithm)
    assert code == Exit.OK
    assert [rank["RANK"] for rank in ranks] == ["0", "1", "2", "3"]
    assert all(loopback.environment(2, 4).items() <= rank.items() for rank in ranks)
    assert all((rank["NCCL_LSA_TEAM_SIZE"], rank["NCCL_GIN_ENABLE"]) == ("2", "1") for rank in ranks)
    assert all(is_loopback(rank) for rank in ranks)
    assert not is_loopback(os.environ)


@pytest.mark.parametrize("arguments", [(), ("--nodes", "1")])
def test_one_node_needs_nothing(ranks_of, arguments):
    _, ranks = ranks_of(2, "--device", "cuda", *arguments)
    assert len(ranks) == 2
    assert not any("NCCL_LSA_TEAM_SIZE" in rank or is_loopback(rank) for rank in ranks)


def test_under_the_loopback_its_environment_stays(ranks_of, monkeypatch):
    given = loopback.environment(4, 4, delay_us=50)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _, ranks = ranks_of(4, "--device", "cuda", "--nodes", "2")  # which the ranks find out
    assert all(given.items() <= rank.items() for rank in ranks)


def test_what_cannot_be_made_is_refused(ranks_of, monkeypatch, capsys):
    code, ranks = ranks_of(4, "--device", "cuda", "--nodes", "3")
    assert (code, ranks) == (Exit.USAGE, [])
    assert "ep_bench: --nodes 3: expected a divisor of the 4 ranks" in capsys.readouterr().err

    def missing():
        raise FileNotFoundError("librma_loopback.so is missing")

    monkeypatch.setattr(paths, "loopback_plugin", missing)
    code, ranks = ranks_of(4, "--device", "cuda", "--nodes", "2")
    assert (code, ranks) == (Exit.USAGE, [])
    assert "ep_bench: --nodes 2: librma_loopback.so is missing" in capsys.readouterr().err


def test_the_plugin_is_known_by_its_name():
    assert paths.loopback_plugin().name == "librma_loopback.so"
    assert is_loopback({"NCCL_RMA_PLUGIN": "/else/where/librma_loopback.so"})
    assert not is_loopback({"NCCL_RMA_PLUGIN": "none"})
    assert variables_for(None, 4, {}) == variables_for(1, 4, {}) == {}


def test_nodes_are_hosts_or_made_of_one():
    one, two = ["a"] * 4, ["a", "a", "b", "b"]
    assert [count_nodes(hosts, 2, {}) for hosts in (one, two)] == [1, 2]
    assert count_nodes(two, 4, {}) == 2  # hosts that reach each other's memory
    assert count_nodes(one, 2, loopback.environment(2, 4)) == 2


def test_ranks_check_that_nccl_sees_the_nodes_that_were_asked_for():
    check_nodes(None, 16, 8)
    check_nodes(2, 16, 8)
    check_nodes(1, 8, 8)
    with pytest.raises(UsageError, match="--nodes 2: expected 1, for NCCL's LSA teams have 16 of the 16"):
        check_nodes(2, 16, 16)
    with pytest.raises(UsageError, match=r"--nodes 2: expected 4, .* have 1 of the 4 ranks"):
        check_nodes(2, 4, 1)

# SPDX-License-Identifier: Apache-2.0
"""ep_bench --kill: a rank dies in the middle of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from bench_cases import case

from ep_bench.cli import main
from ep_bench.exits import Exit, UsageError
from ep_bench.inputs import Inputs
from ep_bench.kill import Aftermath, Kill, Survivor
from ep_bench.launch import supervisor
from ep_bench.options import Options, parse, settle
from ep_bench.outlive import without

SIZES = {"ranks": 3, "tokens": 4, "hidden": 64, "experts": 6, "top-k": 3, "iters": 5}
SMALL = ["--device", "sim", "--mask", *(f"--{name}={size}" for name, size in SIZES.items())]
TIMEOUT_NS = 500_000


@pytest.mark.sim_only
@pytest.mark.parametrize(
    ("kill", "options"),
    [
        ("1@2", ()),
        ("2@1", ("--layout", "rm", "--mode", "graph")),
        ("1@2", ("--nodes", "3")),
        ("1@2", ("--algorithm", "ht", "--layout", "em", "--mode", "graph")),
        ("1@2", ("--algorithm", "ht", "--nodes", "3")),
    ],
    ids=["ll-em-host", "ll-rm-graph", "ll-nodes", "ht-em-graph", "ht-nodes"],
)
def test_the_others_go_on_and_that_is_verified(capsys, kill: str, options: tuple[str, ...]) -> None:
    arguments = [*SMALL, "--kill", kill, "--timeout-ns", str(TIMEOUT_NS), *options, "--json", "-"]
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == Exit.OK, err
    found, (rank, iteration) = json.loads(out), map(int, kill.split("@"))
    assert (found["killed_rank"], found["killed_at"], found["verified"]) == (rank, iteration, True)
    assert TIMEOUT_NS / 1e3 <= found["longest_us"] <= 4.2 * TIMEOUT_NS / 1e3
    assert [it["rank"] for it in found["survivors"]] == [other for other in range(3) if other != rank]
    for it in found["survivors"]:
        assert it["masked"] == [rank]
        assert it["wrong"] is None
        assert it["usual_us"] < it["longest_us"] <= found["longest_us"]
        assert f"from rank {rank} (" in it["loss"]
    assert f"rank {rank} died as iteration {iteration} began" in err
    assert f"all others have masked rank {rank}, and their results are right" in err


@pytest.mark.sim_only
def test_what_the_library_cannot_do_is_said_by_the_library(capsys) -> None:
    assert main([*SMALL, "--kill", "1@2", "--sms", "9999"]) == Exit.USAGE
    assert "config.max_num_sms: is 9999" in capsys.readouterr().err


@pytest.mark.sim_only
def test_a_rank_that_dies_where_rows_are_dropped(capsys) -> None:
    arguments = [*SMALL, "--algorithm", "ht", "--nodes", "3", "--overflow", "drop", "--budget", "6"]
    assert main([*arguments, "--kill", "1@2", "--timeout-ns", str(TIMEOUT_NS)]) == Exit.OK
    assert "all others have masked rank 1, and their results are right" in capsys.readouterr().out


@pytest.mark.sim_only
def test_a_file_that_cannot_be_written_is_said_before_anybody_dies(capsys) -> None:
    assert main([*SMALL, "--kill", "1@2", "--json", "/nowhere/rows.json"]) == Exit.USAGE
    assert capsys.readouterr() == ("", "ep_bench: --json /nowhere/rows.json: there is no folder /nowhere\n")


@pytest.mark.sim_only
def test_a_file_that_could_not_be_written_leaves_the_report(capsys) -> None:
    arguments = [*SMALL, "--kill", "1@2", "--timeout-ns", str(TIMEOUT_NS), "--json", "/dev/full"]
    assert main(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert "all others have masked rank 1, and their results are right" in out
    assert "--json /dev/full: No space left on device" in err
    assert "Traceback" not in err


@pytest.mark.sim_only
def test_ranks_that_do_without_each_other_too_early_have_wrong_data(capsys) -> None:
    assert main([*SMALL, "--kill", "1@2", "--timeout-ns", "1"]) == Exit.WRONG_DATA
    err = capsys.readouterr().err
    assert "ep_bench: WRONG: ll, em, 4 tokens" in err
    assert "before rank 1 died, where kernels wait 1 ns (--timeout-ns): rank 0: expert_counters" in err
    assert "Traceback" not in err


def test_a_node_has_one_rank_in_high_throughput() -> None:
    with pytest.raises(UsageError, match="--nodes 2: expected 1 or 4 with --kill and --algorithm ht"):
        options("--kill", "3@20", "--algorithm", "ht", "--nodes", "2")


def options(*arguments: str) -> Options:
    return settle(parse(["--mask", *arguments]), "cuda", 4)


def test_one_case_is_measured() -> None:
    found = options("--kill", "3@20")
    assert found.kill == Kill(3, 20)
    (only,) = found.sweep.cases(4, 1)
    assert (found.ops, found.modes, only.layout, only.timeout_ns) == (("pair",), ("host",), "em", 500_000_000)
    assert options("--kill", "3@20", "--timeout-ns", "7").sweep.cases(4, 1)[0].timeout_ns == 7
    assert options().sweep.cases(4, 1)[0].timeout_ns == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kill", "4@3"), "--kill 4@3: expected a rank from 1 to 3"),
        (("--kill", "0@3"), "--kill 0@3: expected a rank from 1 to 3; rank 0 reports"),
        (("--kill", "1@100"), "--kill 1@100: expected an iteration from 1 to 99"),
        (("--kill", "1@0"), "--kill 1@0: expected an iteration from 1 to 99"),
        (("--kill", "1@3", "--layout", "em,rm"), "expected one case and one mode, here are 2 and 1"),
        (("--kill", "1@3", "--mode", "host,graph"), "expected one case and one mode, here are 1 and 2"),
        (("--kill", "1@3", "--mode", "kernel"), "--mode kernel: expected host or graph"),
        (("--kill", "1@3", "--op", "dispatch"), "--op dispatch: expected pair with --kill"),
        (("--kill", "1@3", "--csv", "rows.csv"), "--csv and --kill exclude each other"),
    ],
)
def test_nonsense_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(*arguments)


def test_a_group_without_masks_is_refused() -> None:
    with pytest.raises(UsageError, match="--kill 1@3: expected --mask"):
        settle(parse(["--kill", "1@3"]), "cuda", 4)


@pytest.mark.parametrize("text", ["1", "1@", "@3", "one@3", "-1@3"])
def test_what_is_no_rank_and_iteration_is_said(text: str, capsys) -> None:
    with pytest.raises(SystemExit):
        parse([f"--kill={text}"])
    assert "expected RANK@ITER, two numbers" in capsys.readouterr().err


def test_nobody_expects_tokens_of_the_lost() -> None:
    whole = Inputs(case())
    found, lost = without(whole, 1), 1
    for rank, (routing, before) in enumerate(zip(found.routing, whole.routing, strict=True)):
        kept = ~found.leads_to(before.topk_idx, lost) & (rank != lost)
        np.testing.assert_array_equal(routing.topk_idx, np.where(kept, before.topk_idx, -1))
    assert all(len(zone.tokens) == 0 for zone in found.zones.of_rank(lost))


SURVIVOR = Survivor(0, 10.0, 900.0, [1], "rank 0 waited", None)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"masked": [1, 2]}, ["rank 0 has masked [1, 2], expected [1]"]),
        ({"masked": []}, ["rank 0 has masked [], expected [1]"]),
        ({"loss": None}, ["rank 0 reports no loss"]),
        ({"wrong": "zone 3"}, ["rank 0: zone 3"]),
    ],
    ids=str,
)
def test_what_is_not_as_it_must_be_is_wrong_data(changes: dict, wrong: list[str]) -> None:
    found = Aftermath("a case", Kill(1, 3), TIMEOUT_NS, [replace(SURVIVOR, **changes)])
    assert found.wrong == wrong
    assert found.exit_code == (Exit.WRONG_DATA if wrong else Exit.OK)
    assert [line for line in found.lines() if "WRONG" in line] == [f"WRONG: {text}" for text in wrong]
    assert any("1.80 x the 0.0005 s" in line for line in found.lines())


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(0.2)", Exit.OK),
        ("os.kill(os.getpid(), 9) if rank == 1 else sys.exit(3)", Exit.WRONG_DATA),
        ("os.kill(os.getpid(), 9) if rank == 2 else time.sleep(60)", Exit.CRASH),
        ("sys.exit(2) if rank == 1 else time.sleep(60)", Exit.USAGE),
    ],
)
def test_the_victim_alone_may_kill_itself(monkeypatch, end: str, code: Exit) -> None:
    def start(arguments, variables):
        script = f"import os, sys, time; rank = int(sys.argv[1]); {end}"
        return subprocess.Popen([sys.executable, "-c", script, variables["RANK"]])

    monkeypatch.setattr(supervisor, "_start", start)
    monkeypatch.setattr(supervisor, "_GRACE_S", 0.5)
    assert supervisor.run_ranks([], 3, {}, victim=1) == code

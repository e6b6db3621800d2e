# SPDX-License-Identifier: Apache-2.0
"""How ep_bench ends where it cannot go on, or cannot write what it has found out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest

from ep_bench import finish, sim_main
from ep_bench.cli import main
from ep_bench.exits import INTERRUPTED, Exit
from ep_bench.launch.watchdog import Watchdog
from ep_bench.measure import SimMeter

pytestmark = pytest.mark.sim_only

SIZES = {"ranks": 2, "tokens": 5, "hidden": 64, "experts": 8, "top-k": 3}
SMALL = [
    "--device=sim", "--layout=em", "--mode=host", *(f"--{name}={size}" for name, size in SIZES.items())
]  # fmt: skip
INCOMPLETE = "incomplete: the run ended early"


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot"])
def test_a_file_that_cannot_be_written_is_said_before_the_run(capsys, option):
    target = "/nowhere/rows.svg"
    assert main([*SMALL, option, target]) == Exit.USAGE
    assert capsys.readouterr() == ("", f"ep_bench: {option} {target}: there is no folder /nowhere\n")


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_file_that_could_not_be_written_leaves_the_table(capsys, option):
    assert main([*SMALL, "--op=pair", option, "/dev/full"]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert "remote bytes" in out
    assert f"ep_bench: {option} /dev/full: No space left on device" in err
    assert "Traceback" not in err


def test_csv_goes_to_standard_output_and_the_table_elsewhere(capsys):
    assert main([*SMALL, "--op=pair,dispatch", "--csv", "-"]) == Exit.OK
    out, err = capsys.readouterr()
    assert [row["op"] for row in csv.DictReader(io.StringIO(out))] == ["pair", "dispatch"]
    assert "remote bytes" in err


def test_what_was_measured_before_a_refusal_is_shown_and_written(capsys, tmp_path):
    path = tmp_path / "part.json"
    assert main([*SMALL, "--op=pair", "--sms=0,1000", "--json", str(path)]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert INCOMPLETE in out
    assert "remote bytes" in out
    assert "ep_bench: ll, em, 5 tokens" in err
    assert "max_num_sms: is 1000, expected at most 4" in err
    assert [(row["sms"], row["verified"]) for row in json.loads(path.read_text())] == [(0, True)]


def test_what_was_measured_before_an_interrupt_is_shown_and_written(capsys, monkeypatch):
    measure = SimMeter.measure

    def interrupted(meter, subjects, op, mode):
        if op == "combine":
            raise KeyboardInterrupt
        return measure(meter, subjects, op, mode)

    monkeypatch.setattr(SimMeter, "measure", interrupted)
    assert main([*SMALL, "--op=dispatch,combine", "--json", "-"]) == INTERRUPTED
    out, err = capsys.readouterr()
    assert [row["op"] for row in json.loads(out)] == ["dispatch"]
    assert INCOMPLETE in err
    assert "ep_bench: interrupted" in err


def test_what_was_measured_before_a_hang_is_shown_and_written(capsys, monkeypatch, tmp_path):
    path = tmp_path / "part.json"
    dogs, measure = [], SimMeter.measure

    def watchdog(seconds):
        dogs.append(Watchdog(seconds))
        return dogs[-1]

    def hung(meter, subjects, op, mode):
        if op == "combine":
            dogs[0].last_words()
        return measure(meter, subjects, op, mode)

    monkeypatch.setattr(sim_main, "Watchdog", watchdog)
    monkeypatch.setattr(SimMeter, "measure", hung)
    written = []
    monkeypatch.setattr(finish, "write_json", lambda target, rows, verbose: written.append(len(rows)))
    assert main([*SMALL, "--op=dispatch,combine", "--json", str(path)]) == Exit.OK
    assert written[0] == 1
    assert written[-1] == 2
    assert INCOMPLETE in capsys.readouterr().out


def test_a_run_that_measured_nothing_leaves_no_file(capsys, tmp_path):
    path = tmp_path / "rows.json"
    assert main([*SMALL, "--sms=1000", "--json", str(path)]) == Exit.USAGE
    assert not path.exists()
    assert INCOMPLETE not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--experts=100000",),
            "top-3 of 100000, bf16, uniform: ncclEpDispatch: num_experts is 100000 on 2 ranks",
        ),
        (
            ("--ranks=300", "--experts=300"),
            "--ranks 300 on --nodes 1: .*gpus_per_node is 300, expected at most",
        ),
    ],
    ids=str,
)
def test_what_the_library_and_the_simulator_refuse_takes_a_line(capsys, options, message):
    assert main([*SMALL, "--op=dispatch", *options]) == Exit.USAGE
    err = capsys.readouterr().err
    assert re.search(f"ep_bench: .*{message}", err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("is_read", "code", "message"),
    [
        (True, Exit.USAGE, "ep_bench: standard output cannot be written: No space left on device"),
        (False, Exit.OK, ""),
    ],
    ids=["full", "closed"],
)
@pytest.mark.parametrize(
    "options", [("--op=pair",), ("--mask", "--kill=1@2", "--iters=3")], ids=["measured", "killed"]
)
def test_files_are_written_where_standard_output_cannot_be(tmp_path, options, is_read, code, message):
    path = tmp_path / "rows.json"
    command = [sys.executable, "-m", "ep_bench", *SMALL, *options, "--json", str(path)]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as closed:
        run = subprocess.run(command, stdout=full if is_read else closed, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr.strip("\n")) == (code, message)
    assert json.loads(path.read_text())


def test_json_for_a_standard_output_that_is_full(tmp_path):
    command = [sys.executable, "-m", "ep_bench", *SMALL, "--op=pair", "--json=-"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == Exit.USAGE
    assert "ep_bench: --json -: No space left on device" in run.stderr
    assert "Exception ignored" not in run.stderr

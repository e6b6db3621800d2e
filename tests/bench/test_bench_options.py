# SPDX-License-Identifier: Apache-2.0
"""The command line of ep_bench."""

from __future__ import annotations

from pathlib import Path

import nccl_ep
import numpy as np
import pytest

from ep_bench.exits import UsageError
from ep_bench.options import DEFAULTS, parse, settle

HT = ("--algorithm", "ht")


def options(*arguments: str, device: str = "cuda", num_ranks: int | None = 4):
    return settle(parse(arguments), device, num_ranks)


def test_alone_it_measures_everything_with_defaults_of_the_device():
    cuda, sim = options(), options(device="sim", num_ranks=None)
    assert (cuda.ranks, sim.ranks) == (4, 8)
    assert cuda.modes == ("kernel", "graph", "host")
    assert sim.modes == ("graph", "host")
    assert cuda.ops == ("update", "dispatch", "combine", "pair", "step")
    assert (cuda.iters, cuda.warmup) == (100, 20)
    assert {case.layout for case in cuda.sweep.cases(4, 1)} == {"em", "rm"}


def test_lists_multiply():
    sweep = options("--tokens", "1,8", "--layout", "em", "--dtype", "bf16,fp32", "--sms", "0,32").sweep
    cases = sweep.cases(4, 1)
    assert len(cases) == 8
    assert {(case.tokens, case.dtype, case.sms) for case in cases} == {
        (tokens, dtype, sms) for tokens in (1, 8) for dtype in ("bf16", "fp32") for sms in (0, 32)
    }


def test_zero_copy_is_a_flag_or_a_list_and_concerns_rank_major_only():
    def kinds(*arguments):
        return [(c.layout, c.zero_copy) for c in options("--tokens", "8", *arguments).sweep.cases(4, 1)]

    assert kinds() == [("em", False), ("rm", False)]
    assert kinds("--zero-copy") == [("em", False), ("rm", True)]
    assert kinds("--zero-copy", "off,on") == [("em", False), ("rm", False), ("rm", True)]


def test_a_routing_file_decides_about_tokens_and_top_k(tmp_path):
    path = str(tmp_path / "routes.npz")
    np.savez(path, topk_idx=np.zeros((4, 5, 1), int))
    [case] = options("--routing", path, "--layout", "em", "--experts", "8").sweep.cases(4, 1)
    assert (case.tokens, case.top_k) == (5, 1)
    with pytest.raises(UsageError, match=r"--tokens and --routing .* exclude each other"):
        options("--routing", path, "--tokens", "5")
    with pytest.raises(UsageError, match="routes of 4 ranks, expected 2"):
        options("--routing", path, num_ranks=2).sweep.cases(2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokens", "0"), "0 is too small, expected at least 1"),
        (("--tokens", "many"), "'many' is no number"),
        (("--layout", "flat"), "'flat' is unknown, expected em, rm"),
        (("--op", "dispatch,send"), "'send' is unknown, expected update, dispatch"),
        (("--mode", "wall"), "'wall' is unknown"),
        (("--routing", "zipf"), "expected uniform, zipf:A"),
        (("--plot", "a.gif"), "ends in .png, .svg or .html"),
        (("--compare", "/nowhere.so"), "is no file"),
        (("--zero-copy", "maybe"), "'maybe' is unknown, expected on, off"),
        (("--algorithm", "fast"), "'fast' (choose from"),
        (("--pass", "forward"), "'forward' is unknown, expected fwd, bwd"),
        (("--overflow", "keep"), "'keep' (choose from"),
        (("--budget", "0"), "0 is too small, expected at least 1"),
        (("--budget", "999999999999"), "999999999999 is too large, expected at most 2147483647"),
        (("--seed", "99999999999999999999"), "is too large, expected at most 18446744073709551615"),
        (("--timeout-ns", "99999999999999999999"), "is too large, expected at most 18446744073709551615"),
        (
            ("--timeout", "nan"),
            "argument --timeout: 'nan': expected seconds, more than 0 and at most 1,000,000",
        ),
        (("--timeout", "inf"), "'inf': expected seconds, more than 0"),
        (("--timeout", "0"), "'0': expected seconds, more than 0"),
        (("--timeout=-1",), "'-1': expected seconds, more than 0"),
        (("--timeout", "abc"), "'abc': expected seconds, more than 0"),
        (("--routing", "zipf:nan"), "--routing zipf:nan: expected uniform, zipf:A"),
    ],
)
def test_what_cannot_be_read_ends_with_code_2_and_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--experts", "10"), "--experts 10: expected a multiple of the 4 ranks"),
        (("--top-k", "300"), "--top-k 300: expected at most the number of experts, 256"),
        (("--routing", "hot:257"), "--routing hot:257: expected at most the number of experts, 256"),
        (("--hidden", "12"), "a row of bf16 has 24 bytes, expected a multiple of 16"),
        ((*HT, "--alignment", "6"), "--alignment 6: expected a power of two"),
        (
            (*HT, "--tokens", "64", "--budget", "63"),
            "--budget 63: expected at least the tokens of a rank, 64",
        ),
    ],
)
def test_impossible_cases_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        options(*arguments).sweep.cases(4, 1)


def test_high_throughput_has_defaults_of_its_own():
    cuda = options(*HT).sweep.cases(4, 1)
    assert {(c.algorithm, c.layout, c.tokens) for c in cuda} == {
        ("ht", layout, tokens) for layout in ("fl", "em") for tokens in (1024, 4096)
    }
    assert {(c.pass_direction, c.eager, c.budget, c.alignment, c.overflow) for c in cuda} == {
        ("fwd", False, 0, 1, "trap")
    }


def test_high_throughput_lists_multiply():
    cases = options(*HT, "--tokens", "64", "--pass", "fwd,bwd", "--alignment", "1,16").sweep.cases(4, 1)
    assert [(c.layout, c.pass_direction, c.alignment) for c in cases] == [
        ("fl", "fwd", 1),
        ("fl", "bwd", 1),
        ("em", "fwd", 1),
        ("em", "fwd", 16),
        ("em", "bwd", 1),
        ("em", "bwd", 16),
    ]
    assert {c.zero_copy for c in options(*HT, "--zero-copy").sweep.cases(4, 1)} == {True}


def test_eager_mode_is_not_measured_in_graphs():
    assert options(*HT, "--eager").modes == ("kernel", "host")
    assert options(*HT, "--eager", device="sim").modes == ("host",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pass", "fwd,bwd"), "--pass fwd,bwd: expected --algorithm ht"),
        (("--eager",), "--eager: expected --algorithm ht"),
        (("--budget", "100"), "--budget 100: expected --algorithm ht"),
        (("--alignment", "4"), "--alignment 4: expected --algorithm ht"),
        (("--overflow", "trap"), "--overflow trap: expected --algorithm ht"),
        (("--layout", "fl"), "--layout fl: expected em or rm with --algorithm ll"),
        ((*HT, "--layout", "em,rm"), "--layout rm: expected fl or em with --algorithm ht"),
        ((*HT, "--eager", "--mode", "host,graph"), "--mode graph: a graph cannot hold --eager dispatches"),
        ((*HT, "--eager", "--budget", "100"), "--budget 100 and --eager exclude each other"),
        ((*HT, "--eager", "--overflow", "drop"), "--overflow drop: expected trap with --eager"),
        ((*HT, "--alignment", "4", "--layout", "fl"), "--alignment 4: expected --layout em"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        options(*arguments)


def test_what_the_simulator_cannot_do_is_refused(tmp_path):
    library = tmp_path / "libnccl_ep.so.0"
    library.touch()
    with pytest.raises(UsageError, match="--mode kernel: the simulator has no time"):
        options("--mode", "kernel", device="sim")
    with pytest.raises(UsageError, match="--compare: the simulator has no time"):
        options("--compare", str(library), device="sim")


@pytest.mark.parametrize("device", ["cuda", "sim"])
def test_nodes_divide_the_ranks(device):
    with pytest.raises(UsageError, match="--nodes 3: expected a divisor of the 8 ranks"):
        options("--nodes", "3", "--ranks", "8", device=device, num_ranks=None)
    assert options(*HT, "--nodes", "3", "--ranks", "6", device=device, num_ranks=None).nodes == 3
    assert options("--ranks", "6", device=device, num_ranks=None).nodes == {"cuda": None, "sim": 1}[device]


def test_ranks_of_the_environment_are_not_for_the_command_line():
    with pytest.raises(UsageError, match="--ranks 2: expected 4"):
        options("--ranks", "2")


def test_the_version_is_that_of_the_library(capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"ep_bench {nccl_ep.get_lib_version()}\n"


def test_seconds_may_be_parts_of_one():
    assert options("--timeout", "0.5").timeout == 0.5


def test_a_picture_on_the_simulator_is_of_rows_that_are_sent():
    with pytest.raises(UsageError, match="--op update: nothing to draw on the simulator; expected others"):
        options("--op", "update", "--plot", "a.png", device="sim", num_ranks=None)
    assert options("--op", "update,pair", "--plot", "a.png", device="sim", num_ranks=None).plot == "a.png"
    assert options("--op", "update", "--plot", "a.png").plot == "a.png"


@pytest.mark.parametrize(
    ("recipe", "most"),
    [("none", 128**3), ("ds-fp8", 2**24), ("mxfp8", 2**32)],
    ids=["plain", "bits", "bytes"],
)
def test_tokens_are_no_more_than_verification_can_tell_apart(recipe, most):
    def cases(tokens):
        given = ("--recipe", recipe, "--layout", "em", "--tokens", str(tokens))
        return options(*given).sweep.cases(4, 1)

    assert cases(most // 4)[0].most_tokens == most
    with pytest.raises(
        UsageError, match=rf"--tokens {most // 4 + 1}: expected at most {most // 4} on 4 ranks"
    ):
        cases(most // 4 + 1)


def test_the_help_and_the_documentation_have_the_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "tokens per rank [list]; default 1,8,32,128, in ht 1024,4096; simulated 8,40, in ht 40" in text
    assert "elements of a row [list]; default 7168; simulated 512" in text
    page = Path(__file__).parents[2].joinpath("docs/ep_bench.md").read_text()
    for (device, algorithm), defaults in DEFAULTS.items():
        name = {"ll": "Low Latency", "ht": "High Throughput"}[algorithm] + {"cuda": "", "sim": ", simulated"}[
            device
        ]
        values = (defaults.tokens, defaults.hidden, defaults.experts, defaults.modes)
        assert " | ".join([f"| {name}", *(",".join(map(str, value)) for value in values)]) + " |" in page

# SPDX-License-Identifier: Apache-2.0
"""The command line of ep_bench."""

from __future__ import annotations

import numpy as np
import pytest

from ep_bench.exits import UsageError
from ep_bench.options import parse, settle


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
        (("--plot", "a.gif"), "ends in .png or .html"),
        (("--compare", "/nowhere.so"), "is no file"),
        (("--zero-copy", "maybe"), "'maybe' is unknown, expected on, off"),
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
        (("--hidden", "12"), "a row of bf16 has 24 bytes, expected a multiple of 16"),
    ],
)
def test_impossible_cases_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        options(*arguments).sweep.cases(4, 1)


def test_what_the_simulator_cannot_do_is_refused(tmp_path):
    library = tmp_path / "libnccl_ep.so.0"
    library.touch()
    with pytest.raises(UsageError, match="--mode kernel: the simulator has no time"):
        options("--mode", "kernel", device="sim")
    with pytest.raises(UsageError, match="--compare: the simulator has no time"):
        options("--compare", str(library), device="sim")


def test_ranks_of_the_environment_are_not_for_the_command_line():
    with pytest.raises(UsageError, match="--ranks 2: expected 4"):
        options("--ranks", "2")

# SPDX-License-Identifier: Apache-2.0
"""The loopback plugin moves data and keeps NCCL's guarantees, without a GPU.

Ranks of a small C++ program open it as NCCL does, and have a CUDA driver whose streams are late and out of
order.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from mutants import MUTANTS, PluginMutant
from nccl_ep import paths
from plugin_build import PLUGIN, compile_plugin, compile_ranks

pytestmark = [
    pytest.mark.sim_only,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

NO_FAULTS: dict[str, str] = {}
FAULTS = {"NCCL_EP_LOOPBACK_REORDER": "1", "NCCL_EP_LOOPBACK_DELAY_US": "500"}


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_ranks(tmp_path_factory.mktemp("ranks"))


def run(program: Path, plugin: Path, scenario: str, environment: dict[str, str], **options: int) -> str:
    """What went wrong according to the ranks; empty if nothing did."""
    command = [program, plugin, scenario, *(f"{name}={value}" for name, value in options.items())]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel puts memory where g++'s ThreadSanitizer cannot have it (vm.mmap_rnd_bits)")
    return "" if result.returncode == 0 else f"exit code {result.returncode}\n{result.stderr}"


@pytest.mark.parametrize("faults", [NO_FAULTS, FAULTS], ids=["no_faults", "faults"])
@pytest.mark.parametrize(
    "options",
    [
        {"ranks": 4},
        {"ranks": 2, "contexts": 8},
        {"ranks": 1},
        {"ranks": 3, "communicators": 2},
        {"ranks": 3, "communicators": 2, "threads": 1},
    ],
    ids=lambda options: "_".join(f"{value}_{name}" for name, value in options.items()),
)
def test_what_signals_announce_has_arrived(
    ranks: Path, options: dict[str, int], faults: dict[str, str], seed: int
) -> None:
    environment = {**faults, "NCCL_EP_LOOPBACK_SEED": str(seed)}
    assert run(ranks, paths.loopback_plugin(), "rounds", environment, rounds=12, seed=seed, **options) == ""


def test_nccl_that_knows_the_older_table(ranks: Path) -> None:
    assert run(ranks, paths.loopback_plugin(), "rounds", FAULTS, ranks=3, rounds=12, old_nccl=1) == ""


def test_hundreds_of_rounds(ranks: Path) -> None:
    assert run(ranks, paths.loopback_plugin(), "rounds", FAULTS, ranks=4, rounds=200) == ""


@pytest.mark.parametrize("scenario", ["burst", "leaving", "misuse"])
@pytest.mark.parametrize("threads", [0, 1], ids=["processes", "threads"])
def test_trouble_that_is_not_the_end(ranks: Path, scenario: str, threads: int) -> None:
    assert run(ranks, paths.loopback_plugin(), scenario, NO_FAULTS, ranks=3, threads=threads) == ""


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_rank_dies(ranks: Path, num_ranks: int) -> None:
    assert run(ranks, paths.loopback_plugin(), "death", FAULTS, ranks=num_ranks) == ""


def test_faults_show_a_kernel_that_relies_on_a_weak_signal(ranks: Path) -> None:
    assert "wrong" in run(ranks, paths.loopback_plugin(), "rounds", FAULTS, ranks=3, wrong_kernel=1)


def test_a_driver_that_says_too_early_that_copies_are_done_is_noticed(ranks: Path) -> None:
    assert "wrong" in run(ranks, paths.loopback_plugin(), "rounds", NO_FAULTS, ranks=3, hasty_driver=1)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("NCCL_EP_LOOPBACK_DELAY_US", "5ms", "is '5ms', expected a number from 0 to 10000000"),
        ("NCCL_EP_LOOPBACK_REORDER", "2", "is '2', expected a number from 0 to 1"),
        ("NCCL_EP_LOOPBACK_SEED", "-1", "is '-1', expected a number from 0 to"),
    ],
)
def test_a_wrong_variable_is_named(ranks: Path, name: str, value: str, expected: str) -> None:
    said = run(ranks, paths.loopback_plugin(), "misuse", {name: value}, ranks=2)
    assert f"{name} {expected}" in said


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_sanitizers_have_nothing_to_say(tmp_path: Path, sanitizer: str) -> None:
    program = compile_ranks(tmp_path, sanitizer)
    plugin = compile_plugin(tmp_path, PLUGIN, sanitizer)
    assert run(program, plugin, "rounds", FAULTS, ranks=3, rounds=6, communicators=2) == ""
    assert run(program, plugin, "rounds", FAULTS, ranks=2, rounds=6, communicators=2, threads=1) == ""
    for scenario in ("death", "leaving", "misuse"):
        assert run(program, plugin, scenario, NO_FAULTS, ranks=3) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_are_noticed(ranks: Path, mutant: PluginMutant, tmp_path: Path) -> None:
    plugin = compile_plugin(tmp_path, mutant.write_sources(tmp_path))
    assert any(
        run(ranks, plugin, mutant.scenario, environment, ranks=3, rounds=30, patience=3)
        for environment in (NO_FAULTS, FAULTS)
    )

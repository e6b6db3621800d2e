# SPDX-License-Identifier: Apache-2.0
"""The commands that are printed for the C programs run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def shell_block(page: str, word: str) -> str:
    """The page's only block of commands that has the word."""
    found = [
        block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if word in block
    ]
    assert len(found) == 1, word
    return str(found[0])


def run_printed(commands: str, folder: Path) -> str:
    """What they print, run one after the other beside a copy of the examples."""
    for tool in ("cc", "c++", "pkg-config", "cmake"):
        if tool in commands and not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    shutil.copytree(ROOT / "examples", folder / "examples")
    hidden = ("PKG_CONFIG_PATH", "LD_LIBRARY_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", "-e", "-c", commands]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, commands + run.stdout + run.stderr
    return run.stdout


def commands_in(example: str) -> str:
    """Those in the comment at its beginning."""
    lines = re.findall(r"^//   (.+)$", (ROOT / "examples" / example).read_text(), re.MULTILINE)
    return "".join(f"{line}\n" for line in ["cd examples", *lines])


@pytest.mark.sim_only
def test_of_the_c_example(tmp_path: Path) -> None:
    """README.md shows them, too."""
    assert run_printed(commands_in("ll_roundtrip.c"), tmp_path).count("its tokens are home") == 4


@pytest.mark.sim_only
def test_of_the_backend(tmp_path: Path) -> None:
    printed = run_printed(commands_in("moe_backend.cpp"), tmp_path)
    assert printed.count("three steps forward and backward are right") == 4
    command = [tmp_path / "examples/moe_backend", "stuck"]
    stuck = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert stuck.returncode == 1
    assert re.fullmatch(r"(watchdog: .*rank [023] waited 2 s for .* from rank 1 .*\n)+", stuck.stderr)


@pytest.mark.sim_only
def test_of_the_cmake_package(tmp_path: Path) -> None:
    commands = shell_block((ROOT / "README.md").read_text(), "cmake -S examples")
    commands += "cmake --build build-examples\n./build-examples/ll_roundtrip\n"
    assert run_printed(commands, tmp_path).count("its tokens are home") == 4


@pytest.mark.sim_only
def test_of_programs_for_nccl_ep(tmp_path: Path) -> None:
    commands = shell_block((ROOT / "examples/drop_in/README.md").read_text(), "moe_layer_sim")
    assert run_printed(f"cd examples/drop_in\n{commands}", tmp_path).count("both layers are right") == 4

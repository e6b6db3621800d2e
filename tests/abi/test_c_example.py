# SPDX-License-Identifier: Apache-2.0
"""The C example builds against the installed package with pkg-config and with CMake, and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nccl_ep import paths
from toolchain import COMPILERS, STRICT

EXAMPLES = Path(__file__).parents[2] / "examples"


def build_with_pkg_config(folder: Path) -> Path:
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    environment = os.environ | {"PKG_CONFIG_PATH": str(paths.library_dir() / "pkgconfig")}
    query = ["pkg-config", "--cflags", "--libs", "nccl_ep_sim"]
    flags = subprocess.run(query, check=True, capture_output=True, text=True, env=environment).stdout.split()
    program = folder / "ll_roundtrip"
    source = str(EXAMPLES / "ll_roundtrip.c")
    subprocess.run(
        [COMPILERS["c11"], "-std=c11", *STRICT, source, "-o", str(program), *flags, "-lpthread"], check=True
    )
    return program


def build_with_cmake(folder: Path) -> Path:
    if not shutil.which("cmake"):
        pytest.skip("needs CMake")
    package = f"-Dnccl_ep_DIR={paths.library_dir() / 'cmake' / 'nccl_ep'}"
    subprocess.run(
        ["cmake", "-S", str(EXAMPLES), "-B", str(folder), package], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["cmake", "--build", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder / "ll_roundtrip"


@pytest.mark.sim_only
@pytest.mark.parametrize("build", [build_with_pkg_config, build_with_cmake])
def test_the_c_example_brings_every_token_home(build: Callable[[Path], Path], tmp_path: Path) -> None:
    output = subprocess.run([build(tmp_path)], capture_output=True, text=True)
    assert output.returncode == 0, output.stdout + output.stderr
    assert output.stdout.count("its tokens are home") == 4

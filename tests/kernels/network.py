# SPDX-License-Identifier: Apache-2.0
"""Compiling kernels that use the network with the library's own headers for them, and what that costs.

python tests/kernels/network.py [--accept] INCLUDE...

prints, or records in network.json, the registers of each call with the NCCL headers in these folders.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nvrtc
from headers import nccl_version
from nccl_ep import jit, paths

ARCHS = ("sm_90a", "sm_100a", "sm_120a")
CALLS = Path(__file__).with_name("gin_calls.cu")
RECORD = Path(__file__).with_name("network.json")

_KERNEL = re.compile(
    r"Compiling entry function '(\w+)' for.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
    r" (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


def network_options(include: Path, folder: Path) -> list[str]:
    """NVRTC's options for kernels that use the network of this NCCL; its headers go into the folder."""
    with mock.patch.dict(os.environ, {"NCCL_EP_NCCL_INCLUDE_DIR": str(include)}):
        return ["-default-device", f"-I{paths.template_dir()}", *jit.network_headers(folder)]


def compile_calls(include: Path, arch: str) -> nvrtc.Compiled:
    """All of gin_calls.cu, compiled as the library compiles its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        options = network_options(include, Path(folder))
        options += ["-std=c++17", "-fmad=false", "--ptxas-options=-v", f"-arch={arch}"]
        return nvrtc.compile_source(CALLS.read_text(), options)


def registers(compiled: nvrtc.Compiled) -> dict[str, int]:
    """Registers by kernel; raises if a kernel spills or keeps anything on a stack."""
    found = {}
    for kernel, *memory, count in _KERNEL.findall(compiled.log):
        if any(map(int, memory)):
            raise AssertionError(f"{kernel}: stack, spill stores and loads are {', '.join(memory)} bytes")
        found[kernel] = int(count)
    return dict(sorted(found.items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accept", action="store_true", help="record the numbers")
    parser.add_argument("include", nargs="+", type=Path)
    options = parser.parse_args()
    table = {
        nccl_version(include): {arch: registers(compile_calls(include, arch)) for arch in ARCHS}
        for include in options.include
    }
    text = json.dumps({"compiler": nvrtc.release(), "registers": table}, indent=1) + "\n"
    if options.accept:
        RECORD.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

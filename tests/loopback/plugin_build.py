# SPDX-License-Identifier: Apache-2.0
"""Compiles the tests' ranks, with their CUDA driver, and the plugin as it is or with a bug in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PLUGIN = ROOT / "src/gin_loopback"


def compile_ranks(folder: Path, sanitizer: str = "") -> Path:
    """The program of :file:`ranks.cpp`. It exports its driver to the plugin that it opens."""
    return _compile(
        folder / "ranks", sorted(HERE.glob("*.cpp")), ["-rdynamic", "-ldl", "-pthread"], sanitizer
    )


def compile_plugin(folder: Path, sources: Path, sanitizer: str = "") -> Path:
    """The plugin, of sources in a folder named ``gin_loopback``."""
    flags = ["-shared", "-fPIC", f"-I{sources.parent}"]
    return _compile(folder / "librma_loopback.so", sorted(sources.glob("*.cpp")), flags, sanitizer)


def _compile(output: Path, sources: list[Path], flags: list[str], sanitizer: str) -> Path:
    # One unit of all sources: most of the time goes into the standard library's headers.
    everything = output.with_suffix(".cpp")
    everything.write_text("".join(f'#include "{source}"\n' for source in sources))
    command = ["g++", "-std=c++20", str(everything), "-o", str(output), *flags]
    command += [f"-I{HERE}", f"-I{ROOT / 'src'}", f"-I{ROOT / 'include'}"]
    command += ["-g1", f"-fsanitize={sanitizer}"] if sanitizer else ["-O1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output

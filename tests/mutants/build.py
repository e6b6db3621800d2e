# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels from mutated templates into a library that replaces the simulator's own."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent

sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "protocol", "litmus")]

from ll_scenarios import LAYOUTS, layout_of  # noqa: E402
from mutant import Mutant  # noqa: E402
from nccl_ep import paths  # noqa: E402
from sim_runner import compile_kernels  # noqa: E402


def build(folder: Path, algorithm: str, mutant: Mutant | None = None) -> Path:
    """The library, in a folder of its own: the kernels that the mutant changes and its scenarios use.

    Without a mutant: all of them as they are, built the same way.
    """
    templates = folder / "jit_templates"
    shutil.copytree(paths.template_dir(), templates)
    kernels = sorted((HERE / "kernels").glob(f"{algorithm}_*.cpp"))
    if mutant is not None:
        source = templates / mutant.file
        source.write_text(mutant.apply(source.read_text()))
        others = LAYOUTS - {layout_of(scenario) for scenario in mutant.scenarios}
        kernels = [
            kernel
            for kernel in kernels
            if mutant.file in headers_of(kernel, templates)
            and mutant.only in kernel.stem
            and not kernel.stem.endswith(tuple(others))
        ]
    everything = folder / "kernels.cpp"
    everything.write_text("".join(f'#include "{kernel}"\n' for kernel in kernels))
    return compile_kernels(everything, folder / "kernels.so", [], templates)


def headers_of(source: Path, templates: Path) -> set[str]:
    """The templates that a source includes, directly or not."""
    found: set[str] = set()
    left = [source]
    while left:
        for name in re.findall(r'#include "(.+)"', left.pop().read_text()):
            if name not in found:
                found.add(name)
                left.append(templates / name)
    return found

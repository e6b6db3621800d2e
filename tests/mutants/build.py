# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels from mutated templates into a library that replaces the simulator's own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mutants import Mutant
from nccl_ep import paths

HERE = Path(__file__).parent
KERNELS = HERE / "ll_kernels.cpp"

sys.path.insert(0, str(HERE.parent / "litmus"))


def build(folder: Path, mutant: Mutant | None = None) -> Path:
    """The library, in a folder of its own. Without a mutant: the kernels as they are, built the same way."""
    from sim_runner import compile_kernels

    templates = folder / "jit_templates"
    shutil.copytree(paths.template_dir(), templates)
    if mutant is not None:
        source = templates / mutant.file
        source.write_text(mutant.apply(source.read_text()))
    return compile_kernels(KERNELS, folder / "kernels.so", [], templates)

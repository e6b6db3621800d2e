# SPDX-License-Identifier: Apache-2.0
"""Small C and C++ programs, compiled against the installed headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from nccl_ep import paths

COMPILERS = {"c11": os.environ.get("CC", "cc"), "c++17": os.environ.get("CXX", "c++")}
COMPILERS["c++20"] = COMPILERS["c++17"]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
OWN_TYPES = ["-DNCCL_EP_OWN_TYPES"]


def compile_program(source: str, standard: str, flags: list[str], folder: Path) -> Path:
    """Compiles ``source`` and returns the program. A failure shows the compiler's messages."""
    file = folder / ("program.c" if standard.startswith("c1") else "program.cc")
    file.write_text(source)
    program = folder / "program"
    command = [
        COMPILERS[standard],
        f"-std={standard}",
        *flags,
        f"-I{paths.include_dir()}",
        str(file),
        "-o",
        str(program),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    return program


def run_program(source: str, standard: str, flags: list[str], folder: Path) -> dict[str, int]:
    """Runs a program that prints lines of a name and a number."""
    output = subprocess.run(
        [compile_program(source, standard, flags, folder)], check=True, capture_output=True, text=True
    )
    return {name: int(value) for name, value in (line.split() for line in output.stdout.splitlines())}


def print_values(expressions: list[str], includes: list[str]) -> str:
    """A program, valid C11 and C++17, that prints each expression's value as an unsigned 64-bit number."""
    lines = [f"#include {name}" for name in ["<stdio.h>", "<stddef.h>", *includes]]
    lines.append("int main(void) {")
    lines += [
        f'  printf("%s %llu\\n", "{text.replace(" ", "")}", (unsigned long long)({text}));'
        for text in expressions
    ]
    return "\n".join([*lines, "  return 0;", "}", ""])


def real_header_flags() -> list[str] | None:
    """Include flags for the CUDA and NCCL headers of the installed wheels, or None if some are missing."""
    try:
        import nvidia
    except ImportError:
        return None
    roots = [Path(folder) for folder in nvidia.__path__]
    folders = {
        include
        for root in roots
        for pattern in ("*/include", "*/include/cccl")
        for include in root.glob(pattern)
    }
    needed = ("nccl.h", "cuda.h", "cuda_runtime.h", "crt/host_config.h", "nv/target")
    if not all(any((folder / name).exists() for folder in folders) for name in needed):
        return None
    return [flag for folder in sorted(folders) for flag in ("-isystem", str(folder))]


def exported_symbols(library: Path) -> set[str]:
    """Names that a shared library defines for others."""
    nm = shutil.which("nm")
    assert nm, "nm (binutils) is needed to list the symbols of a library"
    output = subprocess.run(
        [nm, "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True
    )
    return {line.split()[-1] for line in output.stdout.splitlines()}

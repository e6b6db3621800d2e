# SPDX-License-Identifier: Apache-2.0
"""The headers of CUDA and NCCL that tests compile against."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest


def find_wheel_include(*parts: str) -> Path | None:
    """The include folder of an installed wheel."""
    folders = (Path(entry, "nvidia", *parts, "include") for entry in sys.path)
    return next((folder for folder in folders if folder.is_dir()), None)


def wheel_include(*parts: str) -> Path:
    """The include folder of an installed wheel; skips the test where there is none."""
    folder = find_wheel_include(*parts)
    if folder is None:
        pytest.skip(f"the wheel with nvidia/{'/'.join(parts)}/include is not installed")
    return folder


def nccl_version(include: Path) -> str:
    """Such as ``2.30.7``."""
    text = (include / "nccl.h").read_text()
    return ".".join(re.findall(r"#define NCCL_(?:MAJOR|MINOR|PATCH) (\d+)", text))


def nccl_includes(more: list[str]) -> list[Path]:
    """NCCL's headers of the installed wheel, and those of other versions."""
    installed = find_wheel_include("nccl")
    return [*([installed] if installed else []), *map(Path, more)]


def struct_fields(text: str, name: str) -> list[str]:
    """The fields of a struct or typedef of a header, those of nested structs left out."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    named = re.search(rf"\bstruct\s+{name}\s*(?=\{{)", code)
    if named:
        body = _braced(code, named.end())
    else:
        ends = (m.start() for m in re.finditer(rf"\}}[^;{{}}]*\b{name}\s*;", code))
        body = _braced(code, _opening(code, next(ends)))
    while (flat := re.sub(r"\{[^{}]*\}", "", body)) != body:
        body = flat
    body = re.sub(r"__attribute__\s*\(\(.*?\)\)\)?|\[[^\]]*\]|:\s*\d+", "", body)
    fields = []
    for declaration in body.split(";"):
        names = [re.search(r"(\w+)\s*$", part) for part in declaration.split(",")]
        fields += [found[1] for found in names if found and found[1] not in ("struct", "union")]
    return fields


def _braced(code: str, opening: int) -> str:
    """What is between a brace and the one that closes it."""
    depth = 0
    for at in range(opening, len(code)):
        depth += {"{": 1, "}": -1}.get(code[at], 0)
        if depth == 0:
            return code[opening + 1 : at]
    raise ValueError("a brace is not closed")


def _opening(code: str, closing: int) -> int:
    """The brace that another one closes."""
    depth = 0
    for at in range(closing, -1, -1):
        depth += {"}": 1, "{": -1}.get(code[at], 0)
        if depth == 0:
            return at
    raise ValueError("a brace is not opened")

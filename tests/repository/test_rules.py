# SPDX-License-Identifier: Apache-2.0
"""House rules that a machine can check: decisions about structure, not taste.

Offences are reported as ``path:line: what is wrong``. A line that must break a rule says so with a comment:
``rule-exempt: <reason>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "jit_templates"
SOURCES = ROOT / "src"

# Each layer of the product, and what it may include from.
LAYERS = {
    "api": {"api", "core", "plan", "jit", "runtime"},
    "core": {"core", "plan", "jit", "runtime"},
    "plan": {"plan", "jit", "runtime"},
    "jit": {"jit", "runtime"},
    "runtime": {"runtime"},
    "sim": {"sim", "runtime"},
    "gin_loopback": {"gin_loopback", "runtime"},
}
DEVICE_LAYERS = {
    "shared": {"shared"},
    "device": {"device", "shared"},
    "common": {"common", "device", "shared"},
    "ll": {"ll", "common", "device", "shared"},
    "ht": {"ht", "common", "device", "shared"},
}
# What NCCL's plugin, which links nothing of the library, may include of it.
PLUGIN_SHARES = {"runtime/error.hpp", "runtime/cuda/failure.hpp"}
# Only these know CUDA and NCCL by name: the library's seam, and NCCL's plugin, no part of the library.
BEHIND_THE_SEAM = {"runtime", "gin_loopback"}

ASSEMBLY = r"\b(__)?asm\b"
# CUDA's own words for what our primitives do.
CUDA_LANGUAGE = (
    r"\bvolatile\b|\b__(shared|device|global|constant)__\b|\b(thread|block)(Idx|Dim)\b|\bgridDim\b"
    r"|\b__(sync|shfl|ballot|all|any|threadfence|reduce)\w*\s*\(|\batomic[A-Z]\w*\s*\("
)
SEAM_CALLS = (
    r"\b(cu(Mem|Stream|Launch|Module|Ctx|Device|Init|Func)\w*|cuda[A-Z]\w+"
    r"|nccl(Mem|Comm|AllGather|Dev)\w*)\s*\("
)

_COMMENT = re.compile(r"//.*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_INCLUDE = re.compile(r'\s*#\s*include\s+"([\w./]+)"')


def files(folder: Path, *endings: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in endings)


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments; exempted lines are left out."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if "rule-exempt:" not in line:
            yield number, _COMMENT.sub("", line)


def matches(path: Path, pattern: str, problem: str) -> list[str]:
    """Offences of code, with the contents of strings left out."""
    wrong = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {problem}: {found[0]}"
        for number, line in code_lines(path)
        if (found := wrong.search(_STRING.sub('""', line)))
    ]


def included_folders(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in code_lines(path):
        if (found := _INCLUDE.match(line)) and "/" in found[1]:
            yield number, found[1]


def layer_offences(folder: Path, layers: dict[str, set[str]], foreign: set[str]) -> list[str]:
    offences = []
    for path in files(folder, ".cpp", ".hpp", ".cuh"):
        layer = path.relative_to(folder).parts[0]
        for number, header in included_folders(path):
            target = header.split("/")[0]
            if target in (layers.keys() | foreign) and target not in layers[layer]:
                offences.append(f"{path.relative_to(ROOT)}:{number}: {layer} includes {header}")
    return offences


def report(offences: list[str]) -> None:
    assert not offences, "\n" + "\n".join(offences)


def test_assembly_is_in_cuda_cuh_only() -> None:
    others = [path for path in files(KERNELS, ".cuh", ".hpp") if path != KERNELS / "device/cuda.cuh"]
    report([o for path in others for o in matches(path, ASSEMBLY, "assembly outside device/cuda.cuh")])


def test_kernels_use_primitives_and_nothing_else() -> None:
    kernels = [path for path in files(KERNELS, ".cuh", ".hpp") if path.parent != KERNELS / "device"]
    allowed = KERNELS / "shared/types.hpp"  # defines EP_HOST_DEVICE
    report(
        [o for path in kernels if path != allowed for o in matches(path, CUDA_LANGUAGE, "not a primitive")]
    )


def test_kernels_include_our_headers_only() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files(KERNELS / "ll", ".cuh", ".hpp") + files(KERNELS / "ht", ".cuh", ".hpp")
        for number, line in code_lines(path)
        if re.match(r"\s*#\s*include\s+<", line)
    ]
    report(offences)


def test_includes_point_down() -> None:
    report(layer_offences(SOURCES, LAYERS, set()) + layer_offences(KERNELS, DEVICE_LAYERS, set(LAYERS)))


def test_only_the_runtime_knows_cuda_and_nccl() -> None:
    offences = []
    for path in files(SOURCES, ".cpp", ".hpp"):
        layer = path.relative_to(SOURCES).parts[0]
        if layer not in BEHIND_THE_SEAM:
            offences += matches(path, SEAM_CALLS, "call behind the seam")
            offences += [
                f"{path.relative_to(ROOT)}:{number}: {header}"
                for number, header in included_folders(path)
                if header.startswith("runtime/cuda/")
            ]
    report(offences)


def test_the_plugin_shares_a_few_headers_with_the_library() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{number}: {header}"
        for path in files(SOURCES / "gin_loopback", ".cpp", ".hpp")
        for number, header in included_folders(path)
        if header.startswith("runtime/") and header not in PLUGIN_SHARES
    ]
    report(offences)


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_component_reads_the_environment_in_one_file(layer: str) -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in files(SOURCES / layer, ".cpp", ".hpp")
        if any("getenv" in line for _, line in code_lines(path))
    ]
    assert len(readers) <= 1, f"{layer} reads the environment in {', '.join(readers)}"


def test_every_source_file_starts_with_its_licence() -> None:
    folders = ("src", "include", "jit_templates", "python", "ep_bench", "tests", "examples")
    endings = (".cpp", ".hpp", ".cuh", ".cu", ".c", ".h", ".py")
    report(
        [
            f"{path.relative_to(ROOT)}:1: no SPDX-License-Identifier"
            for folder in folders
            for path in files(ROOT / folder, *endings)
            if "SPDX-License-Identifier: Apache-2.0" not in "".join(path.read_text().splitlines(True)[:3])
        ]
    )


@pytest.mark.parametrize(
    ("pattern", "offence"),
    [
        (ASSEMBLY, 'asm volatile("membar.sys;");'),
        (CUDA_LANGUAGE, "while (*(volatile int*)flag == 0) {"),
        (CUDA_LANGUAGE, "uint32_t i = threadIdx.x;"),
        (CUDA_LANGUAGE, "__syncthreads();"),
        (CUDA_LANGUAGE, "atomicAdd(counter, 1);"),
        (SEAM_CALLS, "cudaMalloc(&p, 16);"),
        (SEAM_CALLS, "if (ncclCommWindowRegister(comm, p, n, &w, 0)) {"),
        (SEAM_CALLS, "cuMemAlloc(&p, 16);"),
    ],
)
def test_rules_notice_offences(pattern: str, offence: str) -> None:
    assert re.search(pattern, offence)


def test_layers_notice_a_step_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/x.cpp").write_text('#include "jit/kernels.hpp"\n#include "core/group.hpp"\n')
    assert layer_offences(tmp_path, LAYERS, set()) == ["plan/x.cpp:2: plan includes core/group.hpp"]

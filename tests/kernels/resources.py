# SPDX-License-Identifier: Apache-2.0
"""What every kernel costs on every architecture, compiled as the library does it. Needs NVRTC, but no GPU.

python tests/kernels/resources.py            prints the table beside the recorded one
python tests/kernels/resources.py --accept   records it in resources.json

Kernels of groups with masks, with exact sums or across LSA teams are compiled for one architecture: they
have much in common with the others, and NVRTC takes minutes for them. Those across teams need the headers of
NCCL's wheel, or of --nccl-include; without headers nothing can be recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headers import nccl_includes, nccl_version
from nccl_ep import jit
from rich.console import Console
from rich.table import Table

ARCHS = ("sm_90a", "sm_100a", "sm_120a")
FEW_ARCHS = ("sm_90a",)
RECORD = Path(__file__).with_name("resources.json")

_BOUNDS = re.compile(r"__launch_bounds__\((\d+),")
# ptxas's account, in NVRTC's log.
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_MILLISECONDS = re.compile(r"Compile time = ([\d.]+) ms")
_COMPILER = re.compile(r"Cuda compilation tools, release ([\d.]+)")


@dataclass(frozen=True)
class Resources:
    """What one kernel uses, and the widest block that it is launched with."""

    block_threads: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    code_bytes: int


@dataclass(frozen=True)
class Measurement:
    """Kernels, by architecture and name.

    Attributes:
        compiler: NVRTC's release.
        nccl: version of the headers for those that use the network; empty where there are none.
        kernels: what each uses.
        ptxas_ms: for reading only.
    """

    compiler: str
    nccl: str
    kernels: dict[str, dict[str, Resources]]
    ptxas_ms: dict[str, dict[str, float]]


def measure(nccl: Path | None = None) -> Measurement:
    """Compiles afresh the kernels of groups inside an LSA team, or with NCCL's headers those across teams."""
    across = (jit.Groups.SEVERAL_TEAMS, jit.Groups.MASKED_TEAMS, jit.Groups.EXACT_TEAMS)
    runs = [(FEW_ARCHS, groups) for groups in across]
    if nccl is None:
        few = (jit.Groups.MASKED, jit.Groups.EXACT)
        runs = [(ARCHS, jit.Groups.ONE_TEAM), *((FEW_ARCHS, groups) for groups in few)]
    resources: dict[str, dict[str, Resources]] = {}
    times: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {"NCCL_EP_JIT_DUMP": folder} | ({"NCCL_EP_NCCL_INCLUDE_DIR": str(nccl)} if nccl else {})
        with mock.patch.dict(os.environ, environment):
            compiled = [kernel for archs, groups in runs for kernel in jit.warmup(archs, groups=groups)]
        for kernel in compiled:
            stem = Path(folder, f"{kernel.name}.{kernel.arch}")
            source, log, ptx = (
                stem.with_name(stem.name + end).read_text() for end in (".cu", ".log", ".ptx")
            )
            binary = stem.with_name(f"{stem.name}.cubin").read_bytes()
            resources.setdefault(kernel.arch, {})[kernel.name] = read_resources(source, log, binary)
            times.setdefault(kernel.arch, {})[kernel.name] = float(_find(_MILLISECONDS, log)[1])
    return Measurement(_find(_COMPILER, ptx)[1], nccl_version(nccl) if nccl else "", resources, times)


def joined(inside: Measurement, across: Measurement) -> Measurement:
    """Both in one table."""
    return Measurement(
        inside.compiler,
        across.nccl,
        {arch: kernels | across.kernels.get(arch, {}) for arch, kernels in inside.kernels.items()},
        {arch: times | across.ptxas_ms.get(arch, {}) for arch, times in inside.ptxas_ms.items()},
    )


def read_resources(source: str, log: str, binary: bytes) -> Resources:
    """Reads one kernel's source, log and binary."""
    frame = _find(_FRAME, log)
    shared = _SHARED.search(log)
    return Resources(
        block_threads=int(_find(_BOUNDS, source)[1]),
        registers=int(_find(_REGISTERS, log)[1]),
        shared_bytes=int(shared[1]) if shared else 0,
        stack_bytes=int(frame[1]),
        spill_bytes=int(frame[2]) + int(frame[3]),
        code_bytes=sum(size for name, size in elf_sections(binary) if name.startswith(".text.")),
    )


def elf_sections(binary: bytes) -> Iterator[tuple[str, int]]:
    """Name and size of each section of a 64-bit ELF file."""
    header_at = struct.unpack_from("<Q", binary, 0x28)[0]
    entry_bytes, count, names_index = struct.unpack_from("<HHH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", binary, header_at + i * entry_bytes) for i in range(count)]
    names_at = headers[names_index][4]
    for name, _, _, _, _, size in headers:
        start = names_at + name
        yield binary[start : binary.index(b"\0", start)].decode(), size


def recorded() -> Measurement:
    """The table in resources.json."""
    record = json.loads(RECORD.read_text())
    kernels = {
        arch: {name: Resources(**numbers) for name, numbers in table.items()}
        for arch, table in record["kernels"].items()
    }
    return Measurement(record["compiler"], record["nccl"], kernels, record["ptxas_ms"])


def accept(measured: Measurement) -> None:
    """Records a table. Times are kept for reading only."""
    RECORD.write_text(json.dumps(asdict(measured), indent=1) + "\n")


def show(measured: Measurement, before: Measurement | None) -> Table:
    """The table, with the recorded number behind each one that changed."""
    fields = list(Resources.__dataclass_fields__)
    table = Table("architecture", "kernel", *(field.replace("_", " ") for field in fields), "ptxas ms")
    for arch, kernels in measured.kernels.items():
        for name, now in kernels.items():
            old = before.kernels.get(arch, {}).get(name) if before else None
            cells = []
            for field in fields:
                number = getattr(now, field)
                changed = old is not None and getattr(old, field) != number
                cells.append(f"{number} (was {getattr(old, field)})" if changed else str(number))
            table.add_row(arch, name, *cells, f"{measured.ptxas_ms[arch][name]:.0f}")
    return table


def _find(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.search(text)
    if found is None:
        raise ValueError(f"the compiler's output has no {pattern.pattern!r}:\n{text}")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accept", action="store_true", help="record the numbers")
    parser.add_argument("--nccl-include", type=Path, help="NCCL's headers, instead of the installed wheel's")
    options = parser.parse_args()
    include = options.nccl_include or next(iter(nccl_includes([])), None)
    if options.accept and include is None:
        parser.error("--accept needs NCCL's headers: install its wheel, or name them with --nccl-include")
    measured = measure()
    if include is not None:
        measured = joined(measured, measure(include))
    table = show(measured, recorded() if RECORD.exists() else None)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.accept:
        accept(measured)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Our own declarations of the CUDA driver and of NCCL agree with the real headers.

One small C++ program prints every constant, field offset and function type that we declare. It is compiled
twice: against our declarations, and against the headers of wheels (``pip install nvidia-cuda-runtime
nvidia-nccl-cu13``).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from headers import nccl_version, struct_fields, wheel_include

ROOT = Path(__file__).resolve().parents[2]
# Where the driver is declared, the header with struct Driver, the namespace:
# of the library, and of NCCL's plugin.
DRIVERS = [
    ("runtime/cuda/cuda_types.hpp", "runtime/cuda/driver.hpp", "nccl_ep::runtime::cuda"),
    ("gin_loopback/driver.hpp", "gin_loopback/driver.hpp", "nccl_ep::loopback"),
]
NCCL_API = ROOT / "src/runtime/cuda/nccl_api.hpp"

PRINTER = r"""
#include <cstddef>
#include <cstdio>
#include <cxxabi.h>
#include <string>
#include <typeinfo>

template <class T>
void show_type(const char* name) {
  std::string text = abi::__cxa_demangle(typeid(T).name(), nullptr, nullptr, nullptr);
  for (const std::string ours : {"nccl_ep::runtime::cuda::", "nccl_ep::loopback::"}) {
    for (size_t at; (at = text.find(ours)) != std::string::npos;) text.erase(at, ours.size());
  }
  std::printf("%s: %s\n", name, text.c_str());
}
"""


def run_program(source: str, includes: list[Path], tmp_path: Path, name: str) -> list[str]:
    file = tmp_path / f"{name}.cpp"
    file.write_text(source)
    flags = [f"-I{folder}" for folder in includes]
    subprocess.run(
        ["g++", "-std=c++20", "-w", *flags, "-o", tmp_path / name, file],
        check=True,
        capture_output=True,
        text=True,
    )
    return subprocess.run([tmp_path / name], check=True, capture_output=True, text=True).stdout.splitlines()


def stub_includes(tmp_path: Path) -> Path:
    """Empty stand-ins for headers that nccl.h includes for users' convenience only."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for header in ("cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h"):
        (folder / header).touch()
    (folder / "cuda_runtime.h").write_text(
        "#include <cuda.h>\ntypedef CUstream cudaStream_t;\ntypedef CUevent cudaEvent_t;\n"
    )
    return folder


def declared_values(header: Path) -> list[str]:
    text = header.read_text()
    return re.findall(
        r"^\s*(?:inline constexpr [\w ]+ )?((?:CU|CUDA|NCCL)_\w+) = \w+[,; }]", text, re.MULTILINE
    )


def layout_of(struct: str, fields: list[str], bytes_of_struct: str) -> str:
    """Prints where the fields are, how large they are, and where the last one ends at the latest."""
    shows = "".join(
        f'std::printf("{struct}.{f}: %zu, %zu bytes\\n", offsetof({struct}, {f}), sizeof({struct}::{f}));'
        for f in fields
    )
    return shows + f'std::printf("{struct}: %zu bytes\\n", (size_t)({bytes_of_struct}));'


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("declarations", "header", "namespace"), DRIVERS, ids=lambda part: part.split("/")[0]
)
def test_cuda_driver_declarations_are_the_real_ones(
    declarations: str, header: str, namespace: str, tmp_path: Path
) -> None:
    real = wheel_include("cu13")
    text = (ROOT / "src" / declarations).read_text()
    functions = re.findall(r"X\((\w+), (\w+),", text)
    values = re.findall(r"\b((?:CU|CUDA)_[A-Z]\w+) = \d+[,; ]", text)
    types = re.findall(r"^using (CU\w+) =", text, re.MULTILINE)
    assert len(functions) > 20
    assert len(values) > 5
    assert len(types) > 5
    show_values = "".join(f'std::printf("{v}: %d\\n", (int){v});' for v in values)
    sizes = "".join(f'std::printf("sizeof {t}: %zu\\n", sizeof({t}));' for t in types)
    ours = "".join(f'show_type<decltype(Driver::{name})>("{symbol}");' for name, symbol in functions)
    theirs = "".join(f"show_type<decltype(&{name})>(NAME({name}));" for name, _ in functions)
    body = "int main() {{ {} {} {} }}"
    ours_text = (
        PRINTER
        + f'#include "{header}"\nusing namespace {namespace};\n'
        + body.format(show_values, sizes, ours)
    )
    # cuda.h renames functions by macros; NAME prints what a name becomes.
    theirs_text = (
        PRINTER
        + "#include <cuda.h>\n#define TEXT(x) #x\n#define NAME(x) TEXT(x)\n"
        + body.format(show_values, sizes, theirs)
    )
    includes = [ROOT / "src", ROOT / "include", ROOT / "jit_templates"]
    assert run_program(ours_text, includes, tmp_path, "ours") == run_program(
        theirs_text, [real], tmp_path, "theirs"
    )


# Structs that we declare as of 2.31.2, the first field that 2.30 lacks, and whether 2.32 has more of them.
STRUCTS = (("ncclCommProperties", "commHash", True), ("ncclDevCommRequirements", "ginCustomStride", False))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_nccl_declarations_are_the_real_ones(nccl_include: Path, tmp_path: Path) -> None:
    real = [stub_includes(tmp_path), wheel_include("cu13"), nccl_include]
    functions = re.findall(r"X\((nccl\w+),", NCCL_API.read_text())
    values = declared_values(NCCL_API)
    assert len(functions) > 10
    assert len(values) >= 8
    show = "".join(f'std::printf("{v}: %u\\n", (unsigned){v});' for v in values)
    ours, theirs = show, show
    is_230 = nccl_version(nccl_include).startswith("2.30.")
    for struct, first_of_231, grows in STRUCTS:
        fields = struct_fields(NCCL_API.read_text(), struct)
        assert len(fields) > 15
        if is_230:
            fields = fields[: fields.index(first_of_231)]
            ours += layout_of(struct, fields, f"offsetof({struct}, {first_of_231})")
            theirs += layout_of(struct, fields, f"sizeof({struct})")
        else:
            end = f"offsetof({struct}, {fields[-1]}) + sizeof({struct}::{fields[-1]})"
            ours += layout_of(struct, fields, end if grows else f"sizeof({struct})")
            theirs += layout_of(struct, fields, end if grows else f"sizeof({struct})")
    ours += "".join(f'show_type<decltype(Nccl::{name})>("{name}");' for name in functions)
    theirs += "".join(f'show_type<decltype(&{name})>("{name}");' for name in functions)
    ours_text = (
        PRINTER
        + '#include "runtime/cuda/nccl_api.hpp"\nusing namespace nccl_ep::runtime::cuda;\n'
        + f"int main() {{ {ours} }}"
    )
    theirs_text = (
        PRINTER
        + "#include <nccl.h>\n#include <nccl_device/core.h>\n"
        + "#if __has_include(<nccl_device/host.h>)\n#include <nccl_device/host.h>\n#endif\n"
        + f"int main() {{ {theirs} }}"
    )
    includes = [ROOT / "src", ROOT / "include", ROOT / "jit_templates"]
    assert run_program(ours_text, includes, tmp_path, "ours") == run_program(
        theirs_text, real, tmp_path, "theirs"
    )


def test_nccl_versions_are_encoded_as_nccl_does(nccl_include: Path) -> None:
    version = (nccl_include / "nccl.h").read_text()
    numbers = {
        name: int(value) for name, value in re.findall(r"#define NCCL_(MAJOR|MINOR|PATCH) (\d+)", version)
    }
    code = re.search(r"#define NCCL_VERSION_CODE (\d+)", version)
    assert code
    assert int(code[1]) == numbers["MAJOR"] * 10000 + numbers["MINOR"] * 100 + numbers["PATCH"]

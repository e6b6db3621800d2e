# SPDX-License-Identifier: Apache-2.0
"""Kernels that use the network: every call compiles, and NVRTC sees NCCL's structs as NCCL does.

NCCL's headers are written for nvcc; ``src/jit/header_rewrite.cpp`` changes them for NVRTC. The layouts that
NVRTC sees in the changed headers are compared with those that g++ sees in the headers as they are: NCCL's
host code, which fills these structs, is compiled from the same ones.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import nvrtc
from headers import nccl_includes, nccl_version, struct_fields, wheel_include
from nccl_ep.errors import SystemFailure
from nccl_ep.jit.__main__ import main
from network import ARCHS, CALLS, RECORD, compile_calls, network_options, registers

PROXY = "nccl_device/gin/proxy/gin_proxy_device_host_common.h"
GDAKI = "nccl_device/gin/gdaki/gin_gdaki_device_host_common.h"
DOCA = "nccl_device/gin/gdaki/doca_gpunetio/common/doca_gpunetio_verbs_"
COMM = "nccl_device/impl/comm__types.h"
CORE = "nccl_device/impl/core__types.h"

# What passes between NCCL's host code, kernels and NICs. Of the opaque ones only size and alignment are
# compared, since their fields are in nested structs.
STRUCTS = {
    "ncclDevComm": COMM,
    "ncclDevCommWindowTable": COMM,
    "ncclWindow_vidmem": CORE,
    "ncclSegmentWindow": CORE,
    "ncclGinProxyGpuCtx_t": PROXY,
    "ncclGinGdakiGPUContext": GDAKI,
    "ncclGinGdakiMemHandle": GDAKI,
    "doca_gpu_dev_verbs_qp": f"{DOCA}dev.h",
    "doca_gpu_dev_verbs_cq": f"{DOCA}dev.h",
    "doca_gpu_dev_verbs_addr": f"{DOCA}dev.h",
    "doca_gpunetio_ib_mlx5_wqe_ctrl_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_wqe_raddr_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_wqe_atomic_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_wqe_data_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_wqe_inl_data_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_wqe_wait_seg": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_cqe64": f"{DOCA}def.h",
    "doca_gpunetio_ib_mlx5_err_cqe_ex": f"{DOCA}def.h",
}
OPAQUE = (
    *("doca_gpu_dev_verbs_wqe", "ncclGinProxyQword_t", "ncclGinProxyGfd_t", "ncclResourceWindow_vidmem"),
    *("ncclGinGdakiGlobalGPUBufferTable<uint64_t>", "ncclMultimemHandle", "ncclGinBarrierHandle"),
    *("ncclLsaBarrierHandle", "doca_gpu_dev_verbs_atomic_64_masked_cs_seg_t"),
)

HOST_INCLUDES = f"""
#include <nccl.h>
#if __has_include(<nccl_device/host.h>)
#include <nccl_device/host.h>
#endif
#include <{COMM}>
#include <{PROXY}>
#include <{GDAKI}>
#include <{DOCA}dev.h>
"""
DEVICE_INCLUDES = "#include <nccl_device.h>\n"
HOST_MAIN = r"""
#include <cstdio>
template <class T>
void show(const char* name, const T& value) {
  std::printf("%s", name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
  for (unsigned i = 0; i < sizeof(T); ++i) std::printf(" %u", bytes[i]);
  std::printf("\n");
}
"""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    try:
        nvrtc.release()
    except nvrtc.Unavailable as reason:
        pytest.skip(f"no NVRTC here: {reason}")


def options_of(include: Path, folder: Path) -> list[str]:
    try:
        return network_options(include, folder / "headers")
    except SystemFailure as failure:
        pytest.skip(f"headers are missing here: {failure.message}")


@pytest.fixture
def one_nccl_include(request: pytest.FixtureRequest) -> Path:
    folders = nccl_includes(request.config.getoption("--nccl-include"))
    if not folders:
        pytest.skip("neither NCCL's wheel nor --nccl-include")
    return folders[0]


def layout_expressions(include: Path) -> list[str]:
    expressions = []
    for name, header in STRUCTS.items():
        fields = struct_fields((include / header).read_text(), name)
        assert fields, name
        expressions += [f"sizeof({name})", f"alignof({name})"]
        expressions += [f"offsetof({name}, {field})" for field in fields]
        expressions += [f"sizeof({name}::{field})" for field in fields]
    return expressions + [f"{measure}({name})" for name in OPAQUE for measure in ("sizeof", "alignof")]


def bit_fields(include: Path) -> Iterator[tuple[str, str, str]]:
    """Struct, field and a value of all ones, of each word of a request to NCCL's proxy."""
    code = re.sub(r"//.*", "", (include / PROXY).read_text())
    for body, name in re.findall(r"struct \{([^{}]*)\} __attribute__\(\(packed\)\) (\w+);", code):
        for kind, field, width in re.findall(r"(uint\d+_t) (\w+)(?::(\d+))?;", body):
            yield name, field, f"(1ull << {width}) - 1" if width else f"({kind})-1"


def data(include: Path) -> str:
    """Definitions that mean the same to both compilers: `layout`, and `bits_<n>` for each bit field."""
    numbers = ",\n  ".join(layout_expressions(include))
    lines = [f"DATA unsigned long long layout[] = {{\n  {numbers}}};"]
    lines += [
        f"DATA ncclGinProxyQword_t bits_{i} = {{.{name} = {{.{field} = {ones}}}}};"
        for i, (name, field, ones) in enumerate(bit_fields(include))
    ]
    return "\n".join(lines) + "\n"


def seen_by_host(include: Path, folder: Path) -> dict[str, list[int]]:
    names = ["layout", *(f"bits_{i}" for i in range(len(list(bit_fields(include)))))]
    shows = "".join(f'  show("{name}", {name});\n' for name in names)
    source = folder / "layout.cpp"
    source.write_text(
        "#include <cstddef>\n#include <cstdint>\n"
        f"{HOST_INCLUDES}#define DATA const\n{data(include)}{HOST_MAIN}int main() {{\n{shows}}}\n"
    )
    cuda = wheel_include("cu13")
    flags = ["-std=c++20", "-w", f"-I{include}", f"-isystem{cuda}", f"-isystem{cuda / 'cccl'}"]
    build = subprocess.run(
        ["g++", *flags, "-o", folder / "layout", source], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    output = subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout
    return {name: [int(b) for b in numbers] for name, *numbers in map(str.split, output.splitlines())}


def seen_by_nvrtc(include: Path, options: list[str]) -> dict[str, list[int]]:
    source = f'{DEVICE_INCLUDES}#define DATA extern "C" __device__ const\n{data(include)}'
    ptx = nvrtc.compile_source(source, [*options, "-std=c++20", "-arch=sm_90a"]).ptx
    seen = {}
    # PTX leaves zeros at the end of an array out.
    for name, size, numbers in re.findall(r"\.b8 (layout|bits_\d+)\[(\d+)\](?: = \{([\d, ]*)\})?;", ptx):
        values = [int(number) for number in numbers.split(",") if number]
        seen[name] = values + [0] * (int(size) - len(values))
    return seen


def test_layouts_are_those_of_the_host(nccl_include: Path, tmp_path: Path) -> None:
    options = options_of(nccl_include, tmp_path)
    expressions = layout_expressions(nccl_include)
    assert len(expressions) > 200
    assert len(list(bit_fields(nccl_include))) > 25
    host, device = seen_by_host(nccl_include, tmp_path), seen_by_nvrtc(nccl_include, options)
    differing = [
        expression
        for i, expression in enumerate(expressions)
        if host["layout"][8 * i : 8 * i + 8] != device["layout"][8 * i : 8 * i + 8]
    ]
    assert differing == []
    assert device == host


def test_another_layout_is_noticed(one_nccl_include: Path, tmp_path: Path) -> None:
    options = options_of(one_nccl_include, tmp_path)
    host = seen_by_host(one_nccl_include, tmp_path)
    changes = (
        (f"{DOCA}def.h", "__attribute__((__packed__)) ", ""),
        (COMM, "uint8_t ginConnectionCount;", "int ginConnectionCount;"),
    )
    for header, old, new in changes:
        changed = tmp_path / "headers" / header
        text = changed.read_text()
        assert old in text
        changed.write_text(text.replace(old, new))
        assert seen_by_nvrtc(one_nccl_include, options) != host
        changed.write_text(text)


def test_an_ignored_attribute_stops_the_compiler(one_nccl_include: Path, tmp_path: Path) -> None:
    options = options_of(one_nccl_include, tmp_path)
    for header in (PROXY, f"{DOCA}def.h", f"{DOCA}dev.h"):
        changed = tmp_path / "headers" / header
        text = changed.read_text()
        changed.write_text((one_nccl_include / header).read_text())
        with pytest.raises(nvrtc.Refused, match=r"attribute|cannot be applied"):
            nvrtc.compile_source(DEVICE_INCLUDES, [*options, "-std=c++17", "-arch=sm_90a"])
        changed.write_text(text)
    nvrtc.compile_source(DEVICE_INCLUDES, [*options, "-std=c++17", "-arch=sm_90a"])


def test_the_command_line_writes_them(
    one_nccl_include: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = options_of(one_nccl_include, tmp_path)
    monkeypatch.setenv("NCCL_EP_NCCL_INCLUDE_DIR", str(one_nccl_include))
    assert main(["headers", str(tmp_path / "headers")]) == 0
    assert capsys.readouterr().out.splitlines() == expected[2:]  # the first two are not about headers
    monkeypatch.setenv("NCCL_EP_NCCL_INCLUDE_DIR", str(tmp_path))
    assert main(["headers", str(tmp_path / "headers")]) == 1
    assert f"no nccl_device.h in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ARCHS)
def test_every_call_compiles_and_stays_in_registers(nccl_include: Path, arch: str) -> None:
    try:
        measured = registers(compile_calls(nccl_include, arch))
    except SystemFailure as failure:
        pytest.skip(f"headers are missing here: {failure.message}")
    calls = re.findall(r"^KERNEL\((\w+)\)", CALLS.read_text(), re.MULTILINE)
    assert set(measured) == {f"gin_{call}" for call in calls}
    record = json.loads(RECORD.read_text())
    limits = record["registers"].get(nccl_version(nccl_include))
    if limits is not None and record["compiler"] == nvrtc.release():
        assert {name: count for name, count in measured.items() if count > limits[arch][name]} == {}

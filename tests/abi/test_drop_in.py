# SPDX-License-Identifier: Apache-2.0
"""Programs written for NVIDIA's NCCL EP 0.2 run with this library in its place."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nccl_ep
import numpy as np
import pytest
from nccl_ep import paths
from test_symbols import UPSTREAM
from toolchain import COMPILERS, OWN_TYPES, STRICT, real_header_flags

PROGRAMS = Path(__file__).parents[2] / "examples" / "drop_in"


def facade_folder() -> Path | None:
    """Where NVIDIA's wheel nccl-extensions is installed, if it is."""
    try:
        found = importlib.util.find_spec("nccl.ep")
    except ModuleNotFoundError:
        return None
    return Path(found.origin).parent if found and found.origin else None


def headers() -> dict[str, list[str]]:
    """Flags for each ``nccl_ep.h`` that can be compiled against here."""
    ours, real, facade = f"-I{paths.include_dir()}", real_header_flags(), facade_folder()
    found = {"ours without CUDA": [*OWN_TYPES, ours]}
    if real:
        found["ours"] = [ours, *real]
    if real and facade:
        found["nvidia"] = [f"-I{facade / 'include'}", *real]
    return found


HEADERS = headers()


def compiled(source: str, flags: list[str], folder: Path) -> Path:
    """An object of one of the program's sources."""
    target = folder / f"{source}.o"
    command = [COMPILERS["c11"], "-std=c11", *STRICT, *flags, "-c", str(PROGRAMS / source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target


def linked(objects: list[Path], libraries: list[str], folder: Path) -> Path:
    """A program of these objects that wants ``libnccl_ep.so.0``."""
    program = folder / "moe_layer"
    ours = [f"-L{paths.library_dir()}", "-l:libnccl_ep.so.0", f"-Wl,-rpath,{paths.library_dir()}"]
    command = [COMPILERS["c11"], *map(str, objects), "-o", str(program), *ours, *libraries, "-lpthread"]
    subprocess.run(command, check=True)
    return program


def check_output(command: list[Any], num_ranks: int, **environment: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("both layers are right") == num_ranks, run.stdout


def check_on_gpus(program: list[Any], **environment: str) -> None:
    from cuda_cluster import num_gpus

    num_ranks = min(4, num_gpus())
    check_output([*program, str(num_ranks)], num_ranks, **environment)


@pytest.mark.sim_only
@pytest.mark.parametrize("header", HEADERS)
def test_the_c_program_runs_on_simulated_gpus(header: str, tmp_path: Path) -> None:
    objects = [
        compiled("moe_layer.c", HEADERS[header], tmp_path),
        compiled("gpus_sim.c", HEADERS["ours without CUDA"], tmp_path),
    ]
    check_output([linked(objects, ["-lnccl_ep_sim"], tmp_path), "2"], 2)


def test_the_c_program_uses_nothing_of_our_own(tmp_path: Path) -> None:
    program = compiled("moe_layer.c", HEADERS["ours without CUDA"], tmp_path)
    listing = subprocess.run(["nm", "-u", program], check=True, capture_output=True, text=True).stdout
    used = set(re.findall(r"\bncclEp\w+", listing))
    assert {"ncclEpDispatch", "ncclEpCombine", "ncclEpUpdateHandle"} <= used <= UPSTREAM


@pytest.mark.parametrize("header", [name for name in HEADERS if name != "ours without CUDA"])
def test_the_c_program_runs_on_gpus(header: str, device: str, tmp_path: Path) -> None:
    """Without GPUs it is compiled alone."""
    sources = ["moe_layer.c", "gpus_cuda.c"]
    objects = [compiled(source, HEADERS[header], tmp_path) for source in sources]
    if device == "cuda":
        check_on_gpus([linked(objects, cuda_libraries(), tmp_path)])


def cuda_libraries() -> list[str]:
    """Linker flags for the CUDA runtime and NCCL of the installed wheels."""
    import nvidia

    folders = [Path(folder) for folder in nvidia.__path__]
    found = [
        next((p for f in folders for p in f.glob(f"*/lib/{n}")), None)
        for n in ("libcudart.so.1*", "libnccl.so.2")
    ]
    assert all(found), "libcudart and libnccl of the wheels nvidia-cuda-runtime and nvidia-nccl"
    return [flag for path in found if path for flag in (str(path), f"-Wl,-rpath,{path.parent}")]


class SimulatedGpu:
    """What moe_layer.py wants of a GPU."""

    def __init__(self, rank: Any) -> None:
        self.rank, self.num_ranks, self.comm = rank.rank, rank.num_ranks, rank.comm
        self.stream = rank.stream()
        self._sim, self._memory = rank.sim, list[Any]()

    def malloc(self, num_bytes: int) -> int:
        self._memory.append(self._sim.empty(num_bytes, np.uint8))
        return int(self._memory[-1].ctypes.data)

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        self.stream.synchronize()
        ctypes.memmove(to, source, num_bytes)


def load_program() -> ModuleType:
    """moe_layer.py, with what ``nccl.ep`` is at the moment."""
    spec = importlib.util.spec_from_file_location("moe_layer", PROGRAMS / "moe_layer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.sim_only
def test_the_python_program_runs_with_our_package(
    make_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nccl", ModuleType("nccl"))
    monkeypatch.setitem(sys.modules, "nccl.ep", nccl_ep)
    monkeypatch.setattr(sys.modules["nccl"], "ep", nccl_ep, raising=False)
    program = load_program()
    make_cluster(2).run(lambda rank: program.run_layers(SimulatedGpu(rank)))


if facade_folder():

    def test_the_python_program_runs_with_nvidias_facade(
        device: str, make_cluster: Callable[..., Any]
    ) -> None:
        """Ours is loaded before the facade looks for a library."""
        if device == "cuda":
            check_on_gpus([sys.executable, PROGRAMS / "moe_layer.py"], LD_PRELOAD=str(paths.library()))
            return
        ctypes.CDLL(str(paths.library()), mode=ctypes.RTLD_GLOBAL)
        program = load_program()
        assert program.ep.get_lib_path() == paths.library()
        make_cluster(2).run(lambda rank: program.run_layers(SimulatedGpu(rank)))

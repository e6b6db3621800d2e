# SPDX-License-Identifier: Apache-2.0
"""Compiles the probe's kernel with NVRTC, through ctypes, as the library compiles its own."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from ep_bench.devices.shared_library import open_library

OPTIONS = ("-std=c++17", "-default-device", "-fmad=false")


class CompileError(Exception):
    """NVRTC did not compile it."""


@cache
def _nvrtc() -> ctypes.CDLL:
    library = open_library(
        "NVRTC",
        ["libnvrtc.so.13", "libnvrtc.so.12"],
        ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"],
        "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 with a CUDA 12 driver)",
    )
    _load_builtins(library)
    return library


def _load_builtins(library: ctypes.CDLL) -> None:
    """NVRTC opens its built-in headers by name alone; in a wheel they are found only if they are loaded."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    file = Path(library._name).with_name(f"libnvrtc-builtins.so.{major.value}.{minor.value}")
    if file.is_file():
        ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def compile_file(source: Path, include_dir: Path, arch: str) -> bytes:
    """The binary of a source file for an architecture such as ``sm_90a``."""
    program = ctypes.c_void_p()
    _call(
        "nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
    )
    try:
        options = [option.encode() for option in (*OPTIONS, f"-arch={arch}", f"-I{include_dir}")]
        array = (ctypes.c_char_p * len(options))(*options)
        if _nvrtc().nvrtcCompileProgram(program, len(options), array):
            log = _output(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise CompileError(f"{source.name} does not compile for {arch}:\n{log}")
        return _output(program, "CUBIN")
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


def _call(name: str, *args: Any) -> None:
    result = getattr(_nvrtc(), name)(*args)
    if result:
        raise CompileError(f"{name} failed with {result}")

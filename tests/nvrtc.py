# SPDX-License-Identifier: Apache-2.0
"""NVRTC through ctypes: CUDA C++ in, PTX and a binary out. Needs no GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata


class Unavailable(Exception):
    """There is no NVRTC here."""


class Refused(Exception):
    """The source does not compile; the compiler's log."""


@dataclass(frozen=True)
class Compiled:
    """What NVRTC makes of a source."""

    binary: bytes
    ptx: str
    log: str


def compile_source(source: str, options: Sequence[str]) -> Compiled:
    """Compiles a source with these options; ``-arch`` must be among them."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"test.cu", 0, None, None)
    check("nvrtcCreateProgram", created)
    try:
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        log = _output(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise Refused(log)
        ptx = _output(program, "PTX").rstrip(b"\0").decode()
        return Compiled(_output(program, "CUBIN"), ptx, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def release() -> str:
    """Such as ``13.0``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    check("nvrtcVersion", _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    check(f"nvrtcGet{what}Size", getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(max(size.value, 1))
    check(f"nvrtcGet{what}", getattr(_nvrtc(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw[: size.value]


@cache
def _nvrtc() -> ctypes.CDLL:
    """libnvrtc of a wheel, else of the system."""
    for wheel in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = metadata.files(wheel) or []
        except metadata.PackageNotFoundError:
            continue
        libraries = [str(file.locate()) for file in files if ".so" in file.name and ".alt." not in file.name]
        for path in sorted(libraries, key=lambda path: "builtins" not in path):  # the builtins first
            library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        return library
    try:
        return ctypes.CDLL("libnvrtc.so")
    except OSError as error:
        raise Unavailable(str(error)) from None


def check(name: str, result: int) -> None:
    """Throws if a call of NVRTC or CUDA has failed."""
    if result:
        raise RuntimeError(f"{name} failed with {result}")

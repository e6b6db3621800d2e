# SPDX-License-Identifier: Apache-2.0
"""Where this package keeps its files: see :mod:`nccl_ep.paths`, which the package itself does not import.

``python -m nccl_ep.paths`` would otherwise find it imported already, and warn.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def include_dir() -> Path:
    """The folder with ``nccl_ep.h``, for compilers: ``-I$(python -m nccl_ep.paths include)``."""
    return _existing(_PACKAGE / "include")


def template_dir() -> Path:
    """The folder with the kernel sources that the JIT compiles."""
    return _existing(_PACKAGE / "jit_templates")


def library_dir() -> Path:
    """The folder with ``libnccl_ep.so.0``, for linkers and loaders."""
    return _existing(_PACKAGE / "lib")


def library() -> Path:
    """The C library itself."""
    return _existing(library_dir() / "libnccl_ep.so.0")


def sim_library() -> Path:
    """The simulated GPU cluster, which nothing but :mod:`nccl_ep.sim` opens."""
    return _existing(library_dir() / "libnccl_ep_sim.so")


def loopback_plugin() -> Path:
    """The plugin that gives NCCL a network between the GPUs of one host: see :mod:`nccl_ep.loopback`."""
    return _existing(library_dir() / "librma_loopback.so")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: nccl_ep is not installed from here. Install it with `pip install .` and run "
            f"Python outside the source folder"
        )
    return path

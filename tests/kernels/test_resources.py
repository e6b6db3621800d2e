# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for every architecture, spills nothing, and costs what resources.json says.

A change that is meant is recorded with ``python tests/kernels/resources.py --accept``; its commit says why.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nccl_ep import paths
from nccl_ep.errors import SystemFailure
from resources import ARCHS, Measurement, measure, recorded


@pytest.fixture(scope="module")
def measured() -> Measurement:
    try:
        return measure()
    except SystemFailure as failure:
        if "NVRTC" in failure.message:
            pytest.skip(f"no NVRTC here: {failure.message}")
        raise


@pytest.mark.parametrize("arch", ARCHS)
def test_no_kernel_spills(measured: Measurement, arch: str) -> None:
    spills = {name: kernel.spill_bytes for name, kernel in measured.kernels[arch].items()}
    assert spills == dict.fromkeys(spills, 0)


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_cost_what_is_recorded(measured: Measurement, arch: str) -> None:
    record = recorded()
    if record.compiler != measured.compiler:
        pytest.skip(f"recorded with NVRTC {record.compiler}, here is {measured.compiler}")
    assert measured.kernels[arch] == record.kernels[arch]


def limit(name: str) -> int:
    """A constant of the shared headers that bounds what kernels may use."""
    shared = paths.template_dir() / "shared"
    headers = "".join(
        (shared / name).read_text() for name in ("group_state.hpp", "ll_args.hpp", "ht_args.hpp")
    )
    found = re.search(rf"{name} = ([\d *]+);", headers)
    assert found, name
    return math.prod(int(factor) for factor in found[1].split("*"))


def max_threads(name: str) -> int:
    """The widest block of a kernel."""
    if name.startswith("ht"):
        return limit("kHtUpdateThreads" if "update" in name else "kHtMoveThreads")
    return limit("kLlDispatchThreads" if "dispatch" in name else "kLlCombineThreads")


def test_the_largest_blocks_fit_an_sm(measured: Measurement) -> None:
    registers_of_an_sm = 64 * 1024
    for kernels in measured.kernels.values():
        for name, kernel in kernels.items():
            allocated = -(-kernel.registers // 8) * 8  # registers are handed out in eights
            assert allocated * max_threads(name) <= registers_of_an_sm, name
            assert kernel.shared_bytes <= limit("kMaxStaticSharedBytes"), name

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

from headers import nccl_includes
from nccl_ep import paths
from nccl_ep.errors import SystemFailure
from resources import Measurement, is_of_ht_masks, measure, recorded

# Each in one process, when there are several.
IN_ONE_PROCESS = [
    pytest.param(name, marks=pytest.mark.xdist_group(name))
    for name in ("inside-a-team", "across-teams", "ht-masks")
]


@pytest.fixture(scope="module", params=IN_ONE_PROCESS)
def measured(request: pytest.FixtureRequest) -> Measurement:
    across_teams = request.param == "across-teams"
    includes = nccl_includes(request.config.getoption("--nccl-include"))
    if across_teams and not includes:
        pytest.skip("neither NCCL's wheel nor --nccl-include")
    try:
        return measure(includes[0] if across_teams else None, ht_masks=request.param == "ht-masks")
    except SystemFailure as failure:
        if across_teams or "NVRTC" in failure.message:
            pytest.skip(f"the compiler or its headers are missing here: {failure.message}")
        raise


def test_no_kernel_spills(measured: Measurement) -> None:
    spilling = [
        f"{name} {arch}: {kernel.spill_bytes} bytes"
        for arch, kernels in measured.kernels.items()
        for name, kernel in kernels.items()
        if kernel.spill_bytes > 0
    ]
    assert spilling == []


def test_kernels_cost_what_is_recorded(measured: Measurement) -> None:
    record = recorded()
    if record.compiler != measured.compiler:
        pytest.skip(f"recorded with NVRTC {record.compiler}, here is {measured.compiler}")
    if measured.nccl not in ("", record.nccl):
        pytest.skip(f"recorded with the headers of NCCL {record.nccl}, here are those of {measured.nccl}")
    for arch, kernels in measured.kernels.items():
        which = set_of(next(iter(kernels)))
        expected = {name: kernel for name, kernel in record.kernels[arch].items() if set_of(name) == which}
        assert kernels == expected, arch


def set_of(name: str) -> str:
    """Kernels that are compiled together."""
    return "across-teams" if name.endswith("_remote") else "ht-masks" if is_of_ht_masks(name) else ""


def max_static_shared_bytes() -> int:
    """What the shared headers allow kernels."""
    header = (paths.template_dir() / "shared/group_state.hpp").read_text()
    found = re.search(r"kMaxStaticSharedBytes = ([\d *]+);", header)
    assert found
    return math.prod(int(factor) for factor in found[1].split("*"))


def test_the_largest_blocks_fit_an_sm(measured: Measurement) -> None:
    registers_of_an_sm = 64 * 1024
    for kernels in measured.kernels.values():
        for name, kernel in kernels.items():
            allocated = -(-kernel.registers // 8) * 8  # registers are handed out in eights
            assert allocated * kernel.block_threads <= registers_of_an_sm, name
            assert kernel.shared_bytes <= max_static_shared_bytes(), name

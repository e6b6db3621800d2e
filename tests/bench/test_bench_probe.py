# SPDX-License-Identifier: Apache-2.0
"""The push probe's kernel compiles for every architecture; it needs NVRTC, no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from nccl_ep import paths

import ep_bench
from ep_bench.devices import nvrtc
from ep_bench.exits import UsageError


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a", "sm_120a"])
def test_the_push_probe_compiles(arch):
    source = Path(ep_bench.__file__).with_name("push_probe.cu")
    try:
        binary = nvrtc.compile_file(source, paths.template_dir(), arch)
    except UsageError as error:
        pytest.skip(str(error))
    assert b"push_rows" in binary

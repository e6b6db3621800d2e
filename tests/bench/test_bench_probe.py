# SPDX-License-Identifier: Apache-2.0
"""The push probe's kernel compiles for every architecture; it needs NVRTC, no GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from nccl_ep import paths

import ep_bench
from ep_bench.devices import nvrtc
from ep_bench.exits import UsageError
from ep_bench.probe import probe_blocks, push_ceiling_gbps


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a", "sm_120a"])
def test_the_push_probe_compiles(arch):
    source = Path(ep_bench.__file__).with_name("push_probe.cu")
    try:
        binary = nvrtc.compile_file(source, paths.template_dir(), arch)
    except UsageError as error:
        pytest.skip(str(error))
    assert b"push_rows" in binary


def test_the_push_probe_uses_no_more_sms_than_it_may():
    assert probe_blocks(3, 132, 0) == 48
    assert probe_blocks(7, 132, 0) == 112
    assert probe_blocks(63, 132, 0) == 126
    assert [probe_blocks(3, 132, sms) for sms in (1, 8, 16, 48, 100)] == [1, 8, 16, 48, 48]


def test_a_team_with_more_ranks_than_the_probe_serves_is_refused():
    team = SimpleNamespace(rank=0, num_ranks=72)
    with pytest.raises(UsageError, match="a team has 72 ranks, expected at most 64 for the push probe"):
        push_ceiling_gbps(None, team)

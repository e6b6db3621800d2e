# SPDX-License-Identifier: Apache-2.0
"""A process is killed while it replays a graph: those of the other ranks go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE_S = 120


@pytest.mark.parametrize("algorithm", ["ll", "ht"])
def test_survivors_of_a_killed_process_go_on(
    request: pytest.FixtureRequest, tmp_path: Path, algorithm: str
) -> None:
    if request.config.getoption("device") != "cuda":
        pytest.skip("processes are killed on GPUs only")
    from cuda_cluster import max_ranks

    num_ranks = min(4, max_ranks())
    if num_ranks < 2:
        pytest.skip("needs 2 GPUs")
    victim = num_ranks - 1
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])}
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, str(HERE / "killed_rank.py")),
                *map(str, (rank, num_ranks, tmp_path, victim, algorithm)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        said = [rank.communicate(timeout=PATIENCE_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    print("\n".join(said))
    assert ranks[victim].returncode == -9
    for rank, text in enumerate(said):
        if rank != victim:
            assert ranks[rank].returncode == 0, text
            assert f"rank {rank}: closed" in text

# SPDX-License-Identifier: Apache-2.0
"""What crosses the links: one row per (token, remote rank) each way, and little besides."""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import EM, RM, Exchange, Shape, group_config, make_problem
from oracle import tokens_for_rank

pytestmark = pytest.mark.sim_only
MOST_OVER_IDEAL = 1.05


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
def test_remote_bytes_are_the_rows_and_at_most_5_percent(make_cluster: Any, layout: ep.Layout) -> None:
    shape = Shape(
        num_ranks=8,
        num_local_experts=8,
        num_topk=8,
        hidden=7168,
        max_tokens=128,
        tokens=(128,) * 8,
        no_route=0,
    )
    problem = make_problem(shape, seed=1)
    cluster = make_cluster(8, checker=False)

    def main(rank: Any) -> None:
        mine = Exchange(rank, problem, layout)
        with ep.Group(rank.comm, group_config(problem)) as group:
            handle = mine.make_handle(group)
            for call in (mine.dispatch, mine.combine):
                quietly(rank, cluster.sim.reset_traffic)
                call(handle)
                rank.synchronize()
                quietly(rank, lambda: written.append(remote_bytes(cluster.sim.traffic()["bytes"])))

    written: list[int] = []
    cluster.run(main)
    row = problem.hidden * problem.dtype.itemsize
    ideal = row * sum(
        len(tokens_for_rank(problem, source, rank))
        for source in range(8)
        for rank in range(8)
        if rank != source
    )
    for call, found in zip(("dispatch", "combine"), written, strict=True):
        assert 1 <= found / ideal <= MOST_OVER_IDEAL, f"{call}: {found} bytes for {ideal} of rows"


def quietly(rank: Any, act: Any) -> None:
    """Does something once while no rank's device is busy."""
    rank.barrier()
    if rank.rank == 0:
        act()
    rank.barrier()


def remote_bytes(links: Any) -> int:
    return int(links.sum() - np.trace(links))

# SPDX-License-Identifier: Apache-2.0
"""What crosses the links: one row per (token, remote rank) each way, and little besides."""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import pytest
from ll import EM, RM, Exchange, Shape, group_config, make_problem
from traffic import bytes_of_rows, remote_bytes

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

    def main(rank: Any) -> list[int]:
        mine = Exchange(rank, problem, layout)
        with ep.Group(rank.comm, group_config(problem)) as group:
            handle = mine.make_handle(group)
            calls = (mine.dispatch, mine.combine)
            return [remote_bytes(cluster, rank, lambda call=call: call(handle)) for call in calls]

    written, ideal = cluster.run(main)[0], bytes_of_rows(problem)
    for call, found in zip(("dispatch", "combine"), written, strict=True):
        assert 1 <= found / ideal <= MOST_OVER_IDEAL, f"{call}: {found} bytes for {ideal} of rows"

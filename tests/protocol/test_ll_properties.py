# SPDX-License-Identifier: Apache-2.0
"""Any shape, routing, type and way of calling that hypothesis can think of, against the oracle."""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
from both import shapes
from clusters import open_cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ll import EM, RM, Exchange, Shape, check, group_config, make_problem


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes(st.integers(1, 40), most_topk=40),
    layout=st.sampled_from([EM, RM]),
    team_size=st.sampled_from([1, 2, 5]),
    contexts=st.integers(1, 5),
    windows=st.booleans(),
    halves=st.booleans(),
    num_sms=st.integers(1, 12),
    num_warps=st.integers(2, 4),
    seed=st.integers(1, 10_000),
)
def test_any_exchange(
    device: str,
    shape: Shape,
    layout: ep.Layout,
    team_size: int,
    contexts: int,
    windows: bool,
    halves: bool,
    num_sms: int,
    num_warps: int,
    seed: int,
) -> None:
    num_ranks = 2 if device == "cuda" else shape.num_ranks
    if num_ranks != shape.num_ranks:
        return
    has_teams = device == "sim" and num_ranks % team_size == 0
    nodes = num_ranks // team_size if has_teams else 1
    problem = make_problem(shape, seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, max_num_sms=num_sms)) as group:
            mine = Exchange(rank, problem, layout, windows=windows)
            handle = mine.make_handle(group)
            mine.dispatch(handle, send_only=halves)
            handle.complete()
            mine.combine(handle, send_only=halves)
            handle.complete()
            return mine.results()

    options = {"sms": 12, "threads_per_block": 32 * num_warps, "network_contexts": contexts}
    with open_cluster(device, num_ranks, seed, nodes=nodes, **options) as cluster:
        check(problem, layout, cluster.run(main))

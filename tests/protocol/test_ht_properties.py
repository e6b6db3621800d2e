# SPDX-License-Identifier: Apache-2.0
"""Any shape, routing, type and way of calling that hypothesis can think of, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
from both import shapes
from clusters import open_cluster
from ht import (
    EM,
    FLAT,
    ROUTINGS,
    Exchange,
    Mode,
    Shape,
    budget_for,
    check,
    group_config,
    make_problem,
    reroute,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@st.composite
def modes(draw: Any) -> Mode:
    layout = draw(st.sampled_from([EM, FLAT]))
    return Mode(
        layout,
        alignment=draw(st.sampled_from([1, 2, 16])) if layout is EM else 1,
        windows=draw(st.booleans()),
        backward=draw(st.booleans()),
        global_ids=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes(st.sampled_from([1, 3, 12, 40, 150]), most_topk=12),
    routing=st.sampled_from(ROUTINGS),
    mode=modes(),
    room=st.sampled_from(["eager", "enough", "too little"]),
    num_sms=st.integers(1, 4),
    zero_copy=st.sampled_from([ep.ZeroCopyMode.AUTO, ep.ZeroCopyMode.OFF]),
    seed=st.integers(1, 10_000),
)
def test_any_exchange(
    device: str,
    shape: Shape,
    routing: str,
    mode: Mode,
    room: str,
    num_sms: int,
    zero_copy: ep.ZeroCopyMode,
    seed: int,
) -> None:
    num_ranks = 2 if device == "cuda" else shape.num_ranks
    if num_ranks != shape.num_ranks:
        return
    problem = make_problem(shape, seed)
    reroute(problem, routing, seed)
    enough = budget_for(problem, mode)
    if room == "enough":
        mode = replace(mode, budget=enough + seed % 3, drop=bool(seed % 2))
    elif room == "too little":
        mode = replace(mode, budget=max(shape.max_tokens, enough * (seed % 7) // 7), drop=True)

    def main(rank: Any) -> Any:
        config = group_config(problem, mode, max_num_sms=num_sms, zero_copy=zero_copy)
        with ep.Group(rank.comm, config) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            mine.run(handle)
            return mine.results()

    with open_cluster(device, num_ranks, seed) as cluster:
        check(problem, mode, cluster.run(main))

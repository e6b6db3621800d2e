# SPDX-License-Identifier: Apache-2.0
"""Any shape, routing, type and way of calling that hypothesis can think of, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
from both import shapes
from clusters import open_cluster
from ht import EM, FLAT, Exchange, Mode, Shape, budget_for, check, group_config, make_problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Problem

ROUTINGS = ["uniform", "zipf", "one expert", "one rank", "nobody to rank 0"]


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


def reroute(problem: Problem, routing: str, seed: int) -> None:
    """Makes the routes that exist follow a pattern."""
    random = np.random.default_rng(seed)
    local = problem.num_local_experts
    for routes in problem.topk_idx:
        exists = routes >= 0
        if routing == "zipf":
            routes[exists] = (random.zipf(1.5, int(exists.sum())) - 1) % problem.num_experts
        elif routing == "one expert":
            routes[exists] = problem.num_experts - 1
        elif routing == "one rank":
            routes[exists] = routes[exists] % local
        elif routing == "nobody to rank 0":
            routes[exists & (routes < local)] = -1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes(st.sampled_from([1, 3, 12, 40, 150]), most_topk=12),
    routing=st.sampled_from(ROUTINGS),
    mode=modes(),
    eager=st.booleans(),
    num_sms=st.integers(1, 4),
    zero_copy=st.sampled_from([ep.ZeroCopyMode.AUTO, ep.ZeroCopyMode.OFF]),
    seed=st.integers(1, 10_000),
)
def test_any_exchange(
    device: str,
    shape: Shape,
    routing: str,
    mode: Mode,
    eager: bool,
    num_sms: int,
    zero_copy: ep.ZeroCopyMode,
    seed: int,
) -> None:
    num_ranks = 2 if device == "cuda" else shape.num_ranks
    if num_ranks != shape.num_ranks:
        return
    problem = make_problem(shape, seed)
    reroute(problem, routing, seed)
    if not eager:
        mode = replace(mode, budget=budget_for(problem, mode) + seed % 3)

    def main(rank: Any) -> Any:
        config = group_config(problem, mode, max_num_sms=num_sms, zero_copy=zero_copy)
        with ep.Group(rank.comm, config) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            mine.run(handle)
            return mine.results()

    with open_cluster(device, num_ranks, seed) as cluster:
        check(problem, mode, cluster.run(main))

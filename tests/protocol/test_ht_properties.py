# SPDX-License-Identifier: Apache-2.0
"""Any shape, routing, type and way of calling that hypothesis can think of, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from both import shapes
from clusters import open_cluster
from ht import EM, FLAT, ROUTINGS, Mode, Shape, budget_for, check, make_problem, reroute
from ht_runs import exchange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Problem

CHUNK_BYTES = 128 * 1024  # of parcels that cross the network together
MOST_EXACT_TOKENS = 12  # between teams, where parcels have a row for each route
MOST_WIDE_TOKENS = 12  # whose rows fill half a chunk, and windows gigabytes


@st.composite
def modes(draw: Any) -> Mode:
    layout = draw(st.sampled_from([EM, FLAT]))
    return Mode(
        layout,
        alignment=draw(st.sampled_from([1, 2, 16])) if layout is EM else 1,
        windows=draw(st.booleans()),
        backward=draw(st.booleans()),
        global_ids=draw(st.booleans()),
        exact=layout is EM and draw(st.booleans()),
    )


def with_room(problem: Problem, mode: Mode, room: str, seed: int) -> Mode:
    """The mode with a budget: none, enough, or less than that."""
    enough = budget_for(problem, mode)
    if room == "enough":
        return replace(mode, budget=enough + seed % 3, drop=bool(seed % 2))
    if room == "too little":
        return replace(mode, budget=max(problem.max_tokens, enough * (seed % 7) // 7), drop=True)
    return mode


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
    mode = with_room(problem, mode, room, seed)
    config: dict[str, Any] = {"max_num_sms": num_sms, "zero_copy": zero_copy}
    with open_cluster(device, num_ranks, seed) as cluster:
        check(problem, mode, cluster.run(partial(exchange, problem=problem, mode=mode, **config)))


@pytest.mark.sim_only
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes(st.sampled_from([1, 3, 12, 40, 150]), most_topk=12),
    routing=st.sampled_from(ROUTINGS),
    mode=modes(),
    room=st.sampled_from(["eager", "enough", "too little"]),
    team_size=st.integers(1, 3),
    chunk_parcels=st.sampled_from([1, 2, 7, 128]),
    contexts=st.integers(1, 5),
    num_sms=st.integers(1, 4),
    num_warps=st.integers(3, 8),
    seed=st.integers(1, 10_000),
)
def test_any_exchange_between_teams(
    shape: Shape,
    routing: str,
    mode: Mode,
    room: str,
    team_size: int,
    chunk_parcels: int,
    contexts: int,
    num_sms: int,
    num_warps: int,
    seed: int,
) -> None:
    num_teams = -(-shape.num_ranks // team_size)
    num_ranks = num_teams * team_size
    shape = replace(shape, num_ranks=num_ranks, tokens=((shape.tokens or ()) * team_size)[:num_ranks])
    problem = make_problem(shape, seed)
    reroute(problem, routing, seed)
    mode = replace(with_room(problem, mode, room, seed), team_size=team_size)
    mode = replace(mode, exact=mode.exact and problem.max_tokens <= MOST_EXACT_TOKENS)
    if problem.max_tokens > MOST_WIDE_TOKENS:
        chunk_parcels = max(chunk_parcels, 7)
    config = {"max_num_sms": num_sms, "max_token_bytes": CHUNK_BYTES // chunk_parcels // 16 * 16}
    options = {"nodes": num_teams, "threads_per_block": 32 * num_warps, "network_contexts": contexts}
    with open_cluster("sim", num_ranks, seed, **options) as cluster:
        check(problem, mode, cluster.run(partial(exchange, problem=problem, mode=mode, **config)))

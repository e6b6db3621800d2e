# SPDX-License-Identifier: Apache-2.0
"""Any shape, routing, type and way of calling that hypothesis can think of, against the oracle."""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
from clusters import open_cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ll import BF16, EM, FP16, FP32, RM, Exchange, Shape, check, group_config, make_problem


@st.composite
def shapes(draw: Any, num_ranks: Any) -> Shape:
    ranks = draw(num_ranks)
    local_experts = draw(st.integers(1, 9))
    max_tokens = draw(st.integers(1, 40))
    repeats = draw(st.booleans())
    dtype = draw(st.sampled_from([BF16, FP16, FP32]))
    return Shape(
        num_ranks=ranks,
        num_local_experts=local_experts,
        num_topk=draw(st.integers(1, min(40, ranks * local_experts))),
        hidden=draw(st.integers(1, 40)) * 16 // dtype.itemsize,
        max_tokens=max_tokens,
        tokens=tuple(draw(st.lists(st.integers(0, max_tokens), min_size=ranks, max_size=ranks))),
        dtype=dtype,
        idx_dtype=draw(st.sampled_from([np.int32, np.int64])),
        no_route=draw(st.sampled_from([0.0, 0.2, 0.9])),
        repeats=repeats,
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes(st.integers(1, 5)),
    layout=st.sampled_from([EM, RM]),
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
    windows: bool,
    halves: bool,
    num_sms: int,
    num_warps: int,
    seed: int,
) -> None:
    num_ranks = 2 if device == "cuda" else shape.num_ranks
    if num_ranks != shape.num_ranks:
        return
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

    with open_cluster(device, num_ranks, seed, sms=12, threads_per_block=32 * num_warps) as cluster:
        check(problem, layout, cluster.run(main))

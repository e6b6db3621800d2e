# SPDX-License-Identifier: Apache-2.0
"""What crosses the links: one row per (token, remote rank) each way, and little besides."""

from __future__ import annotations

from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from ll import EM, RM, Exchange, Shape, group_config, make_problem
from traffic import check_overhead, check_rails

pytestmark = pytest.mark.sim_only


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
def test_remote_bytes_are_the_rows_and_at_most_5_percent(make_cluster: Any, layout: ep.Layout) -> None:
    shape = Shape(
        num_ranks=8,
        num_local_experts=8,
        num_topk=8,
        hidden=7168,
        max_tokens=32,
        tokens=(32,) * 8,
        no_route=0,
    )
    problem = make_problem(shape, seed=1)
    cluster = make_cluster(8, checker=False)
    exchange = partial(Exchange, problem=problem, layout=layout)
    check_overhead(cluster, problem, group_config(problem), exchange, most_over_ideal=1.05)


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
@pytest.mark.parametrize(
    ("nodes", "num_ranks", "tokens"), [(2, 4, 32), (8, 8, 8)], ids=["2x2", "8x1-few-tokens"]
)
def test_rails_carry_the_rows_and_at_most_5_percent(
    make_cluster: Any, layout: ep.Layout, nodes: int, num_ranks: int, tokens: int
) -> None:
    shape = Shape(
        num_ranks=num_ranks,
        num_local_experts=64 // num_ranks,
        num_topk=8,
        hidden=7168,
        max_tokens=tokens,
        tokens=(tokens,) * num_ranks,
        no_route=0,
    )
    problem = make_problem(shape, seed=1)
    cluster = make_cluster(num_ranks, nodes=nodes, checker=False)
    exchange = partial(Exchange, problem=problem, layout=layout)
    check_rails(cluster, problem, group_config(problem), exchange, num_ranks // nodes, most_over_ideal=1.05)

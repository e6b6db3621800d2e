# SPDX-License-Identifier: Apache-2.0
"""What crosses the links: one row per (token, remote rank) each way, and little besides."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, group_config, make_problem
from traffic import check_overhead

pytestmark = pytest.mark.sim_only


@pytest.mark.parametrize(
    "mode", [Mode(FLAT), Mode(FLAT, windows=True), Mode(EM), Mode(EM, windows=True)], ids=str
)
def test_remote_bytes_are_the_rows_and_at_most_2_percent(make_cluster: Any, mode: Mode) -> None:
    shape = Shape(
        num_ranks=4,
        num_local_experts=16,
        num_topk=8,
        hidden=1024,
        max_tokens=512,
        tokens=(512,) * 4,
        no_route=0,
    )
    problem = make_problem(shape, seed=1)
    cluster = make_cluster(4, checker=False)
    exchange = partial(Exchange, problem=problem, mode=mode)
    check_overhead(cluster, problem, group_config(problem, mode), exchange, most_over_ideal=1.02)

# SPDX-License-Identifier: Apache-2.0
"""High Throughput between LSA teams in groups with ``exact_combine``: sums are the bits of one team's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from exact import check_high_throughput, combine_high_throughput
from ht import EM, ROUTINGS, Mode, reroute
from ll import FP16, FP32, Shape, make_problem
from oracle import Problem

pytestmark = pytest.mark.sim_only
MODES = [
    Mode(EM),
    Mode(EM, windows=True, alignment=4),
    Mode(EM, backward=True),
    Mode(EM, drop=True, alignment=2),
]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=str)
TEAMS = pytest.mark.parametrize(
    ("nodes", "gpus"), [(2, 2), (4, 1), (3, 2), (2, 4)], ids=["2x2", "4x1", "3x2", "2x4"]
)


def run(make_cluster: Any, nodes: int, problems: list[Problem], mode: Mode, seed: int, **options: Any) -> Any:
    """Steps between teams of equal size, one behind the other, checked: all results."""
    num_ranks = problems[0].num_ranks
    mode = replace(mode, team_size=num_ranks // nodes)
    if mode.drop:
        mode = replace(mode, budget=problems[0].max_tokens)
    cluster = make_cluster(num_ranks, seed, nodes=nodes, **options)
    results = cluster.run(partial(combine_high_throughput, problems=problems, mode=mode))
    check_high_throughput(problems, mode, results)
    return results


@TEAMS
@EVERY_MODE
def test_sums_are_those_of_a_plain_loop(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, seed: int
) -> None:
    shape = Shape(nodes * gpus, num_topk=5, num_local_experts=4, repeats=mode.windows, max_tokens=6)
    problems = [make_problem(shape, seed + i) for i in range(2)]
    run(make_cluster, nodes, problems, mode, seed)


@EVERY_MODE
@pytest.mark.parametrize("routing", ROUTINGS)
def test_routings(make_cluster: Any, mode: Mode, routing: str, seed: int) -> None:
    problem = make_problem(Shape(4, num_topk=4, num_local_experts=3, repeats=True), seed)
    reroute(problem, routing, seed)
    run(make_cluster, 2, [problem], mode, seed)

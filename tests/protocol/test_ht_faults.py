# SPDX-License-Identifier: Apache-2.0
"""A rank that is late changes nothing; a rank that is silent ends in an error that names it, never in a
hang.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from both import check_that_the_silent_is_named
from ht import EM, FLAT, Exchange, Mode, Shape, group_config, make_problem
from ht_runs import check_with_a_late_rank

pytestmark = pytest.mark.sim_only
MODES = pytest.mark.parametrize(
    "mode", [Mode(FLAT, budget=64), Mode(FLAT, budget=64, windows=True), Mode(EM, budget=64)], ids=str
)
SILENT = 1


@MODES
def test_a_late_rank_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)
    check_with_a_late_rank(make_cluster(4, seed), problem, mode, late=seed % 4, num_steps=3)


@MODES
@pytest.mark.parametrize("call", ["update", "dispatch", "combine"])
def test_a_silent_rank_is_a_timeout_that_names_it(
    make_cluster: Any, mode: Mode, call: str, seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=4, tokens=(4, 4, 4, 4), no_route=0), seed)
    calls_before = ["dispatch"] if call == "combine" else []
    config = group_config(problem, mode, timeout_ns=1_000_000)
    exchange = partial(Exchange, problem=problem, mode=mode)
    check_that_the_silent_is_named(make_cluster(4, seed), config, exchange, SILENT, calls_before, [call])

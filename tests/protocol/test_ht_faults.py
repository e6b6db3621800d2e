# SPDX-License-Identifier: Apache-2.0
"""A rank that is late changes nothing; a rank that is silent ends in an error that names it, never in a
hang.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from both import check_that_the_silent_is_named
from ht import EM, FLAT, Exchange, Mode, Shape, check, group_config, make_problem

pytestmark = pytest.mark.sim_only
MODES = pytest.mark.parametrize(
    "mode", [Mode(FLAT, budget=64), Mode(FLAT, budget=64, windows=True), Mode(EM, budget=64)], ids=str
)
SILENT = 1


@MODES
def test_a_late_rank_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            for _ in range(3):
                mine.update(handle)
                mine.run(handle)
            return mine.results()

    cluster = make_cluster(4, seed)
    cluster.sim.delay(seed % 4, 20_000)
    check(problem, mode, cluster.run(main))


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

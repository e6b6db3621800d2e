# SPDX-License-Identifier: Apache-2.0
"""A rank that is late changes nothing; a rank that is silent ends in an error that names it, never in a
hang.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import check_that_the_silent_are_named
from ll import EM, RM, Exchange, Shape, check, group_config, make_problem

pytestmark = pytest.mark.sim_only
LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
SILENT = 1


@LAYOUTS
@pytest.mark.parametrize(("nodes", "num_late"), [(1, 1), (2, 2)], ids=["rank", "node"])
def test_who_is_late_changes_nothing(
    make_cluster: Any, nodes: int, num_late: int, layout: ep.Layout, seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for _ in range(3):
                mine.run(handle)
            return mine.results()

    cluster = make_cluster(4, seed, nodes=nodes)
    first = seed * num_late % 4
    for rank in range(first, first + num_late):
        cluster.sim.delay(rank, 20_000)
    check(problem, layout, cluster.run(main))


@LAYOUTS
def test_a_silent_rank_is_a_timeout_that_names_it(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, tokens=(4, 4, 4, 4), no_route=0), seed)

    config = group_config(problem, timeout_ns=1_000_000)
    exchange = partial(Exchange, problem=problem, layout=layout)
    check_that_the_silent_are_named(make_cluster(4, seed), config, exchange, {SILENT}, [], ["run"])


@LAYOUTS
@pytest.mark.parametrize("calls_before", [[], ["dispatch"]], ids=["at-once", "in-between"])
def test_a_lost_node_is_a_timeout_that_names_one_of_its_ranks(
    make_cluster: Any, layout: ep.Layout, calls_before: list[str], seed: int
) -> None:
    # So many experts that every rank has to do with the node.
    problem = make_problem(Shape(num_ranks=6, tokens=(4,) * 6, no_route=0, num_topk=6), seed)
    config = group_config(problem, timeout_ns=1_000_000)
    exchange = partial(Exchange, problem=problem, layout=layout)
    cluster = make_cluster(6, seed, nodes=3)
    check_that_the_silent_are_named(
        cluster,
        config,
        exchange,
        silent={2, 3},
        calls_before=calls_before,
        calls=["combine" if calls_before else "dispatch"],
        fall_silent=lambda _: cluster.sim.lose_node(1),
    )


def test_an_expert_that_does_not_exist_is_named(make_cluster: Any) -> None:
    problem = make_problem(Shape(tokens=(2, 2), no_route=0), seed=1)

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, group_config(problem, timeout_ns=1_000_000)) as group:
            mine = Exchange(rank, problem, RM)
            if rank.rank == 0:
                routes = problem.topk_idx[0].copy()
                routes[1, 0] = 99
                rank.write(mine.topk_idx, routes)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            rank.synchronize()
            if rank.rank != 0:
                group.async_error()  # it may have waited in vain
                return ""
            with pytest.raises(ep.Error) as failure:
                mine.combine(handle)
            return str(failure.value)

    message = make_cluster(2).run(main)[0]
    assert "topk_idx" in message
    assert "token 1" in message
    assert "99" in message


def test_the_silent_ranks_host_can_still_leave(make_cluster: Any) -> None:
    def main(rank: Any) -> bool:
        rank.barrier()
        if rank.rank == SILENT:
            cluster.sim.silence(SILENT)
            rank.sim.default_stream.fill(rank.sim.empty(16, np.uint8), 0)
            with pytest.raises(ep.SystemFailure):
                rank.synchronize()
        return True

    cluster = make_cluster(2)
    assert cluster.run(main) == [True, True]

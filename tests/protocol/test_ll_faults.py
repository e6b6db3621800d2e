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
def test_a_late_rank_changes_nothing(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for _ in range(3):
                mine.run(handle)
            return mine.results()

    cluster = make_cluster(4, seed)
    cluster.sim.delay(seed % 4, 20_000)
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
    problem = make_problem(Shape(num_ranks=6, tokens=(4,) * 6, no_route=0), seed)
    lost = {2, 3}  # on node 1 of 3

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, group_config(problem, timeout_ns=1_000_000)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for name in calls_before:
                getattr(mine, name)(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank == min(lost):
                cluster.sim.lose_node(1)
            rank.barrier()
            if rank.rank in lost:
                return ""
            (mine.combine if calls_before else mine.dispatch)(handle)
            rank.synchronize()
            with pytest.raises(ep.RemoteError) as failure:
                mine.dispatch(handle)
            return str(failure.value)

    cluster = make_cluster(6, seed, nodes=3)
    for rank, message in enumerate(cluster.run(main)):
        if rank not in lost:
            assert f"rank {rank} waited" in message
            assert any(f"from rank {peer}" in message for peer in lost)


@LAYOUTS
def test_a_late_node_changes_nothing(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for _ in range(3):
                mine.run(handle)
            return mine.results()

    cluster = make_cluster(4, seed, nodes=2)
    for rank in (2, 3):
        cluster.sim.delay(rank, 20_000)
    check(problem, layout, cluster.run(main))


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

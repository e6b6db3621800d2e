# SPDX-License-Identifier: Apache-2.0
"""The traffic model is exact: what it says of a routing is what the simulator counts, link by link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ht
import ll
import nccl_ep as ep
import numpy as np
import pytest
from ht import FLAT, Mode
from ll import EM, RM
from nccl_ep.model import Links, Operation, Tokens, links_of, traffic_plan
from oracle import Problem
from traffic import links_of as counted_links

pytestmark = pytest.mark.sim_only

LL_CALLS = {Operation.DISPATCH: ll.Exchange.dispatch, Operation.COMBINE: ll.Exchange.combine}
HT_CALLS = {
    Operation.UPDATE: ht.Exchange.update,
    Operation.DISPATCH: ht.Exchange.dispatch,
    Operation.COMBINE: ht.Exchange.combine,
}
MODES = [Mode(FLAT), Mode(FLAT, windows=True), Mode(EM, alignment=4), Mode(EM, windows=True)]


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
@pytest.mark.parametrize(("nodes", "num_ranks"), [(1, 4), (2, 4), (2, 6), (3, 3)])
def test_low_latency(make_cluster: Any, layout: ep.Layout, nodes: int, num_ranks: int, seed: int) -> None:
    # Rows of several chunks, of which the last is not full.
    shape = ll.Shape(num_ranks, num_local_experts=4, num_topk=5, hidden=1600, max_tokens=7)
    problem = ll.make_problem(shape, seed)
    cluster = make_cluster(num_ranks, seed, nodes=nodes, checker=False)
    config = replace(ll.group_config(problem), num_topk=problem.num_topk)
    exchange = partial(ll.Exchange, problem=problem, layout=layout)
    counted = counted_traffic(cluster, config, exchange, LL_CALLS)
    planned = planned_traffic(problem, config, layout, num_ranks // nodes)
    for operation, links in planned.items():
        check_bytes(counted[operation], links, operation)
        heads = links.rail_messages > 0
        if operation is Operation.COMBINE:  # where there are no weights, a signal stands alone
            heads &= (goes(problem) > 0) & (layout is EM)
        check_messages(counted[operation], links, operation, puts_with_signals=heads)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_high_throughput(make_cluster: Any, mode: Mode, seed: int) -> None:
    check_high_throughput(make_cluster, mode, seed, nodes=1, num_ranks=4)


@pytest.mark.parametrize("mode", [*MODES, Mode(EM, exact=True)], ids=str)
@pytest.mark.parametrize(("nodes", "num_ranks"), [(2, 4), (2, 6), (3, 3)])
def test_high_throughput_across_teams(
    make_cluster: Any, mode: Mode, nodes: int, num_ranks: int, seed: int
) -> None:
    check_high_throughput(make_cluster, mode, seed, nodes, num_ranks)


def check_high_throughput(make_cluster: Any, mode: Mode, seed: int, nodes: int, num_ranks: int) -> None:
    shape = ll.Shape(num_ranks, num_local_experts=5, num_topk=6, hidden=1600, max_tokens=40)
    problem = ll.make_problem(shape, seed)
    zero_copy = ep.ZeroCopyMode.ON if mode.windows else ep.ZeroCopyMode.OFF
    config = ht.group_config(problem, mode, zero_copy=zero_copy)
    cluster = make_cluster(num_ranks, seed, nodes=nodes, checker=False)
    counted = counted_traffic(cluster, config, partial(ht.Exchange, problem=problem, mode=mode), HT_CALLS)
    planned = planned_traffic(problem, config, mode.layout, num_ranks // nodes)
    for operation, links in planned.items():
        check_bytes(counted[operation], links, operation)
        puts_with_signals = counted[operation]["gin_puts"]
        if mode.exact and operation is Operation.COMBINE:  # a signal follows several puts
            puts_with_signals = np.zeros_like(puts_with_signals)
        check_messages(counted[operation], links, operation, puts_with_signals=puts_with_signals)


@pytest.mark.parametrize(
    ("algorithm", "num_ranks", "nodes"),
    [
        (ep.Algorithm.LOW_LATENCY, 2, 1),
        (ep.Algorithm.LOW_LATENCY, 4, 2),
        (ep.Algorithm.HIGH_THROUGHPUT, 2, 1),
    ],
    ids=["low-latency", "low-latency-2x2", "high-throughput"],
)
def test_a_row_for_each_route(
    make_cluster: Any, algorithm: ep.Algorithm, num_ranks: int, nodes: int, seed: int
) -> None:
    """The same of groups with ``exact_combine``."""
    shape = ll.Shape(num_ranks, num_local_experts=5, num_topk=6, hidden=800, max_tokens=9)
    problem, mode = ll.make_problem(shape, seed), Mode(EM)
    cluster = make_cluster(num_ranks, seed, nodes=nodes, checker=False)
    config = replace(ht.group_config(problem, mode), algorithm=algorithm, exact_combine=True)
    exchange, calls = partial(ll.Exchange, problem=problem, layout=EM), LL_CALLS
    if algorithm is ep.Algorithm.HIGH_THROUGHPUT:
        exchange, calls = partial(ht.Exchange, problem=problem, mode=mode), HT_CALLS
    counted = counted_traffic(cluster, config, exchange, calls)
    for operation, links in planned_traffic(problem, config, EM, num_ranks // nodes).items():
        check_bytes(counted[operation], links, operation)
        if nodes > 1:
            heads = (links.rail_messages > 0) & (operation is Operation.DISPATCH)  # no weights travel
            check_messages(counted[operation], links, operation, puts_with_signals=heads)


def counted_traffic(
    cluster: Any,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    calls: dict[Operation, Callable[[Any, Any], None]],
) -> dict[Operation, Any]:
    """The simulator's counters of each call, ``[source, destination]``."""

    def main(rank: Any) -> list[Any]:
        mine = make_exchange(rank)
        with ep.Group(rank.comm, config) as group, mine.make_handle(group) as handle:
            return [
                counted_links(cluster, rank, lambda call=call: call(mine, handle)) for call in calls.values()
            ]

    return dict(zip(calls, cluster.run(main)[0], strict=True))


def planned_traffic(
    problem: Problem, config: ep.GroupConfig, layout: ep.Layout, team_size: int
) -> dict[Operation, Links]:
    """What the model says of the same."""
    pieces = traffic_plan(config, problem.num_ranks, team_size, layout, problem.num_topk)
    return links_of(pieces, Tokens.of_routes(problem.topk_idx, problem.num_experts, team_size))


def goes(problem: Problem) -> Any:
    """``[source, destination]``: how many tokens go there."""
    return Tokens.of_routes(problem.topk_idx, problem.num_experts, 1).at_ranks[:, :, 1:].sum(axis=2)


def check_bytes(counted: Any, planned: Links, operation: Operation) -> None:
    """NVLink carries what stores and bulk copies write, rails what is put."""
    written = np.array(counted["bytes"], np.int64)
    np.fill_diagonal(written, 0)
    put = counted["gin_put_bytes"].astype(np.int64)
    np.testing.assert_array_equal(planned.nvlink_bytes, written - put, f"{operation.name}: NVLink bytes")
    np.testing.assert_array_equal(planned.rail_bytes, put, f"{operation.name}: rail bytes")


def check_messages(counted: Any, planned: Links, operation: Operation, *, puts_with_signals: Any) -> None:
    """A put and the signal that rides on it are one message."""
    messages = counted["gin_puts"] + counted["gin_signals"] - puts_with_signals
    np.testing.assert_array_equal(planned.rail_messages, messages, f"{operation.name}: messages")

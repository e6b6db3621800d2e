# SPDX-License-Identifier: Apache-2.0
"""Counting what a call sends from GPU to GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import numpy.typing as npt
from oracle import Problem, tokens_for_rank


def links_of(cluster: Any, rank: Any, call: Callable[[], None]) -> Any:
    """What goes over each link, ``[source, destination]``, in a call that each rank makes."""
    rank.synchronize()
    rank.barrier()
    if rank.rank == 0:
        cluster.sim.reset_traffic()
    rank.barrier()
    call()
    rank.synchronize()
    rank.barrier()
    links = cluster.sim.traffic()
    rank.barrier()
    return links


def links_of_calls(
    cluster: Any, config: ep.GroupConfig, make_exchange: Callable[[Any], Any]
) -> dict[str, Any]:
    """What goes over each link in one dispatch and in one combine."""

    def main(rank: Any) -> dict[str, Any]:
        mine = make_exchange(rank)
        with ep.Group(rank.comm, config) as group:
            handle = mine.make_handle(group)
            calls = {"dispatch": mine.dispatch, "combine": mine.combine}
            return {name: links_of(cluster, rank, partial(call, handle)) for name, call in calls.items()}

    links: dict[str, Any] = cluster.run(main)[0]
    return links


def check_overhead(
    cluster: Any,
    problem: Problem,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    most_over_ideal: float,
) -> None:
    """Dispatch and combine send the problem's rows, and in all at most this many times their bytes."""
    is_remote = ~np.eye(problem.num_ranks, dtype=bool)
    for call, links in links_of_calls(cluster, config, make_exchange).items():
        check_bytes(call, links, problem, is_remote, most_over_ideal)


def check_rails(
    cluster: Any,
    problem: Problem,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    team_size: int,
    most_over_ideal: float,
) -> None:
    """Between teams, dispatch and combine put each row once and little besides. Inside, there are no puts."""
    team = np.arange(problem.num_ranks) // team_size
    is_rail = team[:, None] != team[None, :]
    num_rows = rows_of_links(problem)[is_rail].sum()
    for call, links in links_of_calls(cluster, config, make_exchange).items():
        check_bytes(call, links, problem, is_rail, most_over_ideal)
        rails = links[is_rail]
        assert num_rows <= rails["gin_puts"].sum() <= num_rows + rails.size, call
        assert not rails["stores"].any()
        assert not links[~is_rail]["gin_puts"].any()
        assert not links[~is_rail]["gin_signals"].any()


def check_bytes(
    call: str, links: Any, problem: Problem, which: npt.NDArray[np.bool_], most_over_ideal: float
) -> None:
    """These links carry the rows that must go over them, and at most this many times their bytes."""
    found = int(links["bytes"][which].sum())
    ideal = int(rows_of_links(problem)[which].sum()) * problem.hidden * problem.dtype.itemsize
    assert 1 <= found / ideal <= most_over_ideal, f"{call}: {found} bytes for {ideal} of rows"


def rows_of_links(problem: Problem) -> npt.NDArray[np.int64]:
    """``[source, destination]``: one row for each token and each other rank that it goes to."""
    ranks = range(problem.num_ranks)
    return np.array(
        [[s != r and len(tokens_for_rank(problem, s, r)) for r in ranks] for s in ranks], np.int64
    )

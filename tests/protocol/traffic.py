# SPDX-License-Identifier: Apache-2.0
"""Counting what a call sends from GPU to GPU."""

from __future__ import annotations

from collections.abc import Callable
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


def remote_bytes(cluster: Any, rank: Any, call: Callable[[], None]) -> int:
    """Bytes that all ranks together write to other ranks in a call that each of them makes."""
    written = links_of(cluster, rank, call)["bytes"]
    return int(written.sum() - np.trace(written))


def check_overhead(
    cluster: Any,
    problem: Problem,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    most_over_ideal: float,
) -> None:
    """Dispatch and combine send the problem's rows, and in all at most this many times their bytes."""

    def main(rank: Any) -> list[int]:
        mine = make_exchange(rank)
        with ep.Group(rank.comm, config) as group:
            handle = mine.make_handle(group)
            calls = (mine.dispatch, mine.combine)
            return [remote_bytes(cluster, rank, lambda call=call: call(handle)) for call in calls]

    written, ideal = cluster.run(main)[0], bytes_of_rows(problem)
    for call, found in zip(("dispatch", "combine"), written, strict=True):
        assert 1 <= found / ideal <= most_over_ideal, f"{call}: {found} bytes for {ideal} of rows"


def check_rails(
    cluster: Any,
    problem: Problem,
    config: ep.GroupConfig,
    make_exchange: Callable[[Any], Any],
    team_size: int,
    most_over_ideal: float,
) -> None:
    """Between teams, dispatch and combine put each row once and little besides. Inside, there are no puts."""

    def main(rank: Any) -> list[Any]:
        mine = make_exchange(rank)
        with ep.Group(rank.comm, config) as group:
            handle = mine.make_handle(group)
            calls = (mine.dispatch, mine.combine)
            return [links_of(cluster, rank, lambda call=call: call(handle)) for call in calls]

    team = np.arange(problem.num_ranks) // team_size
    is_rail = team[:, None] != team[None, :]
    num_rows = int(rows_of_links(problem)[is_rail].sum())
    ideal = num_rows * problem.hidden * problem.dtype.itemsize
    for call, links in zip(("dispatch", "combine"), cluster.run(main)[0], strict=True):
        rails, found = links[is_rail], int(links[is_rail]["bytes"].sum())
        assert 1 <= found / ideal <= most_over_ideal, f"{call}: {found} bytes for {ideal} of rows"
        assert num_rows <= rails["gin_puts"].sum() <= num_rows + rails.size, call
        assert not rails["stores"].any()
        assert not links[~is_rail]["gin_puts"].any()
        assert not links[~is_rail]["gin_signals"].any()


def rows_of_links(problem: Problem) -> npt.NDArray[np.int64]:
    """``[source, destination]``: one row for each token and each other rank that it goes to."""
    ranks = range(problem.num_ranks)
    return np.array(
        [[s != r and len(tokens_for_rank(problem, s, r)) for r in ranks] for s in ranks], np.int64
    )


def bytes_of_rows(problem: Problem) -> int:
    """No dispatch or combine can do with less."""
    return int(rows_of_links(problem).sum()) * problem.hidden * problem.dtype.itemsize

# SPDX-License-Identifier: Apache-2.0
"""Low-Latency groups with masks that lose several ranks, one after the other or at once, and in the middle of
operations that overlap.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import pytest
from ll import Exchange, Shape, make_problem
from ll_masks import check_left, check_mask, exchange_without, masked_group
from masks import each, meet
from test_ll_masks import LAYOUTS, LOST, SHAPE, TEAMS

pytestmark = pytest.mark.sim_only
EIGHT = Shape(num_ranks=8, num_local_experts=1, num_topk=3, hidden=16, max_tokens=3)
TIMEOUT_NS = 500_000


@LAYOUTS
@pytest.mark.parametrize("nodes", [1, 2, 4, 8], ids=["one-team", "2x4", "4x2", "8x1"])
@pytest.mark.parametrize("losses", [((2, 5),), ((7,), (0, 3)), ((1,), (6,), (4,))], ids=str)
def test_eight_ranks_lose_several(
    make_cluster: Any, layout: ep.Layout, nodes: int, losses: tuple[tuple[int, ...], ...], seed: int
) -> None:
    """Each time some fall silent, the others go on: nobody takes one that waits for a dead one for dead."""
    problem = make_problem(EIGHT, seed)
    gone = [tuple(rank for some in losses[: i + 1] for rank in some) for i in range(len(losses))]

    def main(rank: Any) -> Any:
        found = []
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            handle = Exchange(rank, problem, layout).make_handle(group)
            for some, lost in zip(losses, gone, strict=True):
                meet(rank)
                if rank.rank in some:
                    cluster.sim.silence(rank.rank)
                    break
                exchanges = [exchange_without(rank, problem, layout, *lost) for _ in range(2)]
                for mine in exchanges:
                    mine.run(handle)
                found.append([mine.results() for mine in exchanges])
                check_mask(rank, group, *lost)
            for _ in losses[len(found) + 1 :]:  # its host still meets the others'
                rank.barrier()
        return found

    cluster = make_cluster(8, seed, nodes=nodes, sms=2, threads_per_block=64)
    found = cluster.run(main)
    for i, lost in enumerate(gone):
        for j in range(2):
            results = [None if rank in lost else found[rank][i][j] for rank in range(8)]
            check_left(problem, layout, results, *lost)


@LAYOUTS
@TEAMS
def test_micro_batches_in_flight_go_on(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    """Each operation begins while the one before is still to be received; a rank is dead for all of them."""
    problems = [make_problem(replace(SHAPE, tokens=tokens), seed) for tokens in ((6, 3, 5, 4), (2, 6, 1, 5))]

    def main(rank: Any) -> Any:
        with masked_group(rank, problems[0], TIMEOUT_NS) as group:
            batches = [exchange_without(rank, problem, layout, LOST) for problem in problems]
            handles = [mine.make_handle(group) for mine in batches]
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.silence(LOST)
                return None
            for call in ("dispatch", "combine"):
                for mine, handle in zip(batches, handles, strict=True):
                    getattr(mine, call)(handle, send_only=True)
                for handle in handles:
                    handle.complete()
            results = [mine.results() for mine in batches]
            check_mask(rank, group, LOST)
            return results

    cluster = make_cluster(SHAPE.num_ranks, seed, nodes=nodes)
    found = cluster.run(main)
    for i, problem in enumerate(problems):
        check_left(problem, layout, each(found, i), LOST)

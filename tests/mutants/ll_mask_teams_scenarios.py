# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels that go on without ranks of other LSA teams that do not answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ll
import nccl_ep as ep
from harness import simulated, wait_for_all
from ll_mask_scenarios import (
    FEW,
    FEW_WARPS,
    LOST,
    Survivor,
    combine_again,
    comes_back,
    dead,
    dead_before_combine,
    hasty,
    lose,
    masked_group,
)
from masks import without

NODES = 3  # a rank each


def quiet(cluster: Any, survivor: Survivor) -> None:
    """Nothing is sent to a masked rank."""
    survivor.exchange().run(survivor.handle)
    survivor.check_mask()
    before = sent(cluster, survivor.rank.rank)
    mine = survivor.exchange()
    for _ in range(2):
        mine.run(survivor.handle)
    survivor.rank.synchronize()
    assert sent(cluster, survivor.rank.rank) == before, "something is sent to a masked rank"
    survivor.check_without_lost(mine)


def sent(cluster: Any, rank: int) -> tuple[int, ...]:
    """Bytes, puts and signals to the lost rank."""
    link = cluster.sim.traffic()[rank, LOST]
    return tuple(int(link[name]) for name in ("bytes", "gin_puts", "gin_signals"))


def bank_of_the_dead(seed: int) -> None:
    """No token goes to the dead rank's experts."""
    lose(seed, ll.RM, combine_again, without(ll.make_problem(FEW, seed), LOST), nodes=NODES)


def comes_later(seed: int) -> None:
    """Others clean their masks in vain, then with the rank, which is there first."""
    problem = ll.make_problem(FEW, seed)

    def main(rank: Any) -> None:
        with masked_group(rank, problem) as group:
            survivor = Survivor(rank, group, problem, ll.RM)
            for _ in range(2):
                if rank.rank != LOST:
                    with suppress(ep.RemoteError):
                        group.clean_mask()
                    survivor.exchange().run(survivor.handle)
                wait_for_all(rank)
            if rank.rank != LOST:
                cluster.sim.delay(rank.rank, 4000)
            rank.barrier()
            group.clean_mask()
            mine = ll.Exchange(rank, problem, ll.RM)
            mine.run(survivor.handle)
            for name, values in ll.expected(problem, rank.rank, ll.RM).items():
                ll.assert_same_bits(mine.results()[name], values, f"rank {rank.rank}: {name}")

    with simulated(problem.num_ranks, seed, nodes=NODES) as cluster:
        cluster.run(main)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "dead": partial(lose, layout=ll.EM, act=dead, nodes=NODES),
    "dead-before-combine": partial(lose, layout=ll.EM, act=dead_before_combine, nodes=NODES, **FEW_WARPS),
    "dead-before-combine-rank-major": partial(
        lose, layout=ll.RM, act=dead_before_combine, nodes=NODES, **FEW_WARPS
    ),
    "quiet": partial(lose, layout=ll.EM, act=quiet, nodes=NODES),
    "quiet-rank-major": partial(lose, layout=ll.RM, act=quiet, nodes=NODES),
    "bank-of-the-dead": bank_of_the_dead,
    "hasty": partial(hasty, nodes=NODES),
    "comes-back": partial(comes_back, nodes=NODES),
    "comes-later": comes_later,
}

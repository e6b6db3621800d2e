# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels that go on without ranks of other LSA teams that do not answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ll
import nccl_ep as ep
from harness import simulated
from ll_mask_scenarios import (
    FEW,
    FEW_WARPS,
    LOST,
    TIMEOUT_NS,
    Survivor,
    bank_of_the_dead,
    comes_back,
    dead,
    dead_before_combine,
    hasty,
    in_time,
    lose,
    one_after_the_other,
    to_all_ranks,
)
from ll_masks import check_mask, clean_and_run, masked_group
from masks import meet

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


def network_keeps(cluster: Any, survivor: Survivor) -> None:
    """What is put to the dead rank never leaves. That is waited for once."""
    survivor.check_without_lost(in_time(cluster, survivor, 12)[-1])
    survivor.check_mask()


def sent(cluster: Any, rank: int) -> tuple[int, ...]:
    """Bytes, puts and signals to the lost rank."""
    link = cluster.sim.traffic()[rank, LOST]
    return tuple(int(link[name]) for name in ("bytes", "gin_puts", "gin_signals"))


def lose_node(cluster: Any) -> None:
    """What is in flight to it and from it is lost as well."""
    cluster.sim.lose_node(LOST)


def half_dead(seed: int) -> None:
    """A rank's last block, which sends nobody a head, stands still: heads arrive, and rows never do."""
    shape = replace(FEW, max_tokens=12, tokens=(12, 12, 12))
    problem = to_all_ranks(ll.make_problem(shape, seed), seed)

    def main(rank: Any) -> None:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = ll.Exchange(rank, problem, ll.RM)
            handle = mine.make_handle(group)
            rank.barrier()
            if rank.rank == LOST:
                cluster.sim.stop_warps(LOST, first_block=problem.num_ranks - 1)
                mine.dispatch(handle)
                rank.barrier()
                cluster.sim.silence(LOST)
                return
            mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            found, wanted = mine.results(), ll.expected(problem, rank.rank, ll.RM)
            ll.assert_same_bits(found["counters"], wanted["counters"], f"rank {rank.rank}: counters")
            for source in {0, 1, 2} - {LOST}:
                ll.assert_same_bits(
                    found["received"][source], wanted["received"][source], f"rank {rank.rank}: from {source}"
                )
            check_mask(rank, group, LOST)

    with simulated(problem.num_ranks, seed, nodes=NODES, sms=3, threads_per_block=64) as cluster:
        cluster.run(main)


def comes_later(seed: int) -> None:
    """Others clean their masks in vain, then with the rank, which is there first."""
    problem = ll.make_problem(FEW, seed)

    def main(rank: Any) -> Any:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            survivor = Survivor(rank, group, problem, ll.RM)
            for _ in range(2):
                if rank.rank != LOST:
                    with suppress(ep.RemoteError):
                        group.clean_mask()
                    survivor.exchange().run(survivor.handle)
                meet(rank)
            if rank.rank != LOST:
                cluster.sim.delay(rank.rank, 4000)
            rank.barrier()
            return clean_and_run(survivor.whole, group, survivor.handle, 1)[0]

    with simulated(problem.num_ranks, seed, nodes=NODES) as cluster:
        results = cluster.run(main)
    ll.check(problem, ll.RM, results)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "dead": partial(lose, layout=ll.EM, act=dead, nodes=NODES),
    "dead-before-combine": partial(lose, layout=ll.EM, act=dead_before_combine, nodes=NODES, **FEW_WARPS),
    "dead-before-combine-rank-major": partial(
        lose, layout=ll.RM, act=dead_before_combine, nodes=NODES, **FEW_WARPS
    ),
    "quiet": partial(lose, layout=ll.EM, act=quiet, nodes=NODES),
    "quiet-rank-major": partial(lose, layout=ll.RM, act=quiet, nodes=NODES),
    "bank-of-the-dead": partial(bank_of_the_dead, nodes=NODES),
    "lost-node": lambda seed: lose(seed, ll.EM, network_keeps, fall=lose_node, nodes=NODES),
    "one-after-the-other": partial(one_after_the_other, nodes=5),
    "half-dead": half_dead,
    "hasty": partial(hasty, nodes=NODES),
    "comes-back": partial(comes_back, nodes=NODES),
    "comes-later": comes_later,
}

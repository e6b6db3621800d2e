# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels that go on without ranks that do not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from typing import Any

import ll
import nccl_ep as ep
import numpy as np
import oracle
from harness import simulated
from ll_masks import assert_same, check_mask, clean_and_run, exchange_without, masked_group
from masks import each, meet, without, without_tokens
from nccl_ep.sim import Schedule
from oracle import Problem

LOST = 1
TIMEOUT_NS = 500_000  # of simulated time, whose leaps end a little later
MOST_NS = int(2.1 * 2 * TIMEOUT_NS)  # patience is had twice
FEW = ll.Shape(num_ranks=3, num_topk=3, hidden=16, max_tokens=4, tokens=(4, 3, 4), no_route=0)
FEW_WARPS = {"sms": 1, "threads_per_block": 64}  # who waits for one rank keeps others waiting
HELLO_BYTES = 4  # told to all ranks by each operation
HASTY_NS = 6 * (80, 100, 120, 150, 190)  # about as long as a launch may be late


class Survivor:
    """A rank of a group with masks, and its buffers."""

    def __init__(self, rank: Any, group: ep.Group, problem: Problem, layout: ep.Layout) -> None:
        self.rank, self.group, self.problem, self.layout = rank, group, problem, layout
        self.whole = ll.Exchange(rank, problem, layout)
        self.handle = self.whole.make_handle(group)

    def exchange(self) -> ll.Exchange:
        """Fresh buffers, with what experts give back for the problem without the lost rank."""
        return exchange_without(self.rank, self.problem, self.layout, LOST)

    def check_without_lost(self, mine: ll.Exchange) -> None:
        """As if the lost rank had neither tokens nor experts."""
        wanted = ll.expected(without(self.problem, LOST), self.rank.rank, self.layout)
        assert_same(mine.results(), wanted, f"rank {self.rank.rank}")

    def check_mask(self) -> None:
        """Only the lost rank is masked, and the host knows."""
        check_mask(self.rank, self.group, LOST)
        loss = self.group.async_error()
        assert isinstance(loss, ep.RemoteError), "no loss is reported"
        assert loss.ranks == (LOST,), loss.message


def fall_silent(cluster: Any) -> None:
    cluster.sim.silence(LOST)


def lose(
    seed: int,
    layout: ep.Layout,
    act: Callable[[Any, Survivor], None],
    problem: Problem | None = None,
    fall: Callable[[Any], None] = fall_silent,
    **options: Any,
) -> None:
    """After two exchanges that end well, a rank is lost, and the others act.

    ``options`` are the cluster's.
    """
    problem = problem or to_all_ranks(ll.make_problem(FEW, seed), seed)

    def main(rank: Any) -> None:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            survivor = Survivor(rank, group, problem, layout)
            for _ in range(2):
                survivor.whole.run(survivor.handle)
            meet(rank)
            if rank.rank == LOST:
                fall(cluster)
                return
            act(cluster, survivor)

    with simulated(problem.num_ranks, seed, **options) as cluster:
        cluster.run(main)


def to_all_ranks(problem: Problem, seed: int) -> Problem:
    """The same problem with each token going to an expert of each rank, in any order."""
    random = np.random.default_rng(seed)
    ranks = np.arange(problem.num_ranks) * problem.num_local_experts
    routes = [
        random.permuted(np.tile(ranks, (len(table), 1)), axis=1).astype(table.dtype)
        + random.integers(0, problem.num_local_experts, table.shape)
        for table in problem.topk_idx
    ]
    return replace(problem, topk_idx=routes)


def in_time(cluster: Any, survivor: Survivor, count: int) -> list[ll.Exchange]:
    """So many exchanges, of which the first may wait for who is lost: as long as it may, and no longer."""
    start = cluster.sim.clock_ns
    exchanges = [survivor.exchange() for _ in range(count)]
    for mine in exchanges:
        mine.run(survivor.handle)
    survivor.rank.synchronize()
    assert cluster.sim.clock_ns - start <= MOST_NS, f"waits for {cluster.sim.clock_ns - start} ns"
    return exchanges


def dead(cluster: Any, survivor: Survivor) -> None:
    """Exchanges without the dead rank are right, and the first of them takes no longer than it may."""
    for mine in in_time(cluster, survivor, 3):
        survivor.check_without_lost(mine)
    survivor.check_mask()


def dead_before_combine(cluster: Any, survivor: Survivor) -> None:
    """It has dispatched. Its rows are missing from the sums, and only they."""
    problem, rank = survivor.problem, survivor.rank.rank
    start = cluster.sim.clock_ns
    survivor.whole.combine(survivor.handle)
    survivor.rank.synchronize()
    assert cluster.sim.clock_ns - start <= MOST_NS, f"waits for {cluster.sim.clock_ns - start} ns"
    survivor.check_mask()
    rows = [ll.expert_rows(problem, r, survivor.layout) for r in range(problem.num_ranks)]
    if survivor.layout is ll.RM:
        wanted = oracle.combine_rank_major(without(problem, LOST), rank, rows)
        assert_same(survivor.whole.results(), {"combined": wanted}, f"rank {rank}")
    mine = survivor.exchange()
    mine.run(survivor.handle)
    survivor.check_without_lost(mine)


def quiet(cluster: Any, survivor: Survivor) -> None:
    """Nothing is sent to a masked rank but word of what has been finished."""
    survivor.exchange().run(survivor.handle)
    survivor.check_mask()
    before = sent(cluster, survivor.rank.rank)
    survivor.exchange().run(survivor.handle)
    survivor.rank.synchronize()
    bytes_sent = sent(cluster, survivor.rank.rank) - before
    assert bytes_sent <= 2 * HELLO_BYTES, f"{bytes_sent} bytes are sent to a masked rank"


def sent(cluster: Any, rank: int) -> int:
    return int(cluster.sim.traffic()["bytes"][rank, LOST])


def combine_again(cluster: Any, survivor: Survivor) -> None:
    """Nobody waits for the dead rank but for its word that its bank is free. The operation goes on then."""
    exchanges = [survivor.exchange() for _ in range(4)]
    for mine in exchanges:
        mine.combine(survivor.handle)
    wanted = ll.expected(survivor.problem, survivor.rank.rank, ll.RM)["combined"]
    for mine in exchanges:
        ll.assert_same_bits(survivor.rank.read(mine.combined), wanted, f"rank {survivor.rank.rank}: combined")
    survivor.check_mask()


def bank_of_the_dead(seed: int, nodes: int = 1) -> None:
    """No token goes to the dead rank's experts."""
    lose(seed, ll.RM, combine_again, without(ll.make_problem(FEW, seed), LOST), nodes=nodes)


def one_after_the_other(seed: int, nodes: int = 1) -> None:
    """Two ranks die before a combine. Each time those who wait for the dead one keep others waiting."""
    shape = replace(FEW, num_ranks=5, num_topk=5, tokens=(4, 3, 4, 2, 4))
    problem = to_all_ranks(ll.make_problem(shape, seed), seed)

    def main(rank: Any) -> None:
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            mine = ll.Exchange(rank, problem, ll.EM)
            handle = mine.make_handle(group)
            for some in ((1,), (1, 2)):
                mine.dispatch(handle)
                meet(rank)
                if rank.rank == some[-1]:
                    cluster.sim.silence(rank.rank)
                    break
                mine.combine(handle)
                rank.synchronize()
                check_mask(rank, group, *some)
            if rank.rank == 1:
                rank.barrier()  # its host still meets the others'

    with simulated(problem.num_ranks, seed, nodes=nodes, **FEW_WARPS) as cluster:
        cluster.run(main)


def hasty(seed: int, nodes: int = 1) -> None:
    """Time is so short that some blocks have given up on a rank whose counts others see."""
    for i, timeout_ns in enumerate(HASTY_NS):
        dispatch_hastily(seed + 1000 * i, timeout_ns, nodes)


def dispatch_hastily(seed: int, timeout_ns: int, nodes: int) -> None:
    """The counters speak of the tokens of some ranks, all of each, and rows lie where these say."""
    problem = ll.make_problem(FEW, seed)

    def main(rank: Any) -> dict[str, ll.Array]:
        with masked_group(rank, problem, timeout_ns) as group:
            mine = ll.Exchange(rank, problem, ll.EM)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            found = mine.results()
            rank.barrier()
            group.update_mask([1] * rank.num_ranks)
            return found

    with simulated(problem.num_ranks, seed, nodes=nodes, sms=8, schedule=Schedule.WARPS) as cluster:
        cluster.sim.delay(LOST, 1000)
        results = cluster.run(main)
    for rank, found in enumerate(results):
        check_some_sources(problem, rank, found)


def check_some_sources(problem: Problem, rank: int, found: dict[str, ll.Array]) -> None:
    """Each row is a present source's, where that belongs, or what was there before."""
    others = [source for source in range(problem.num_ranks) if source != rank]
    for absent in chain.from_iterable(combinations(others, count) for count in range(len(others) + 1)):
        wanted = ll.expected(without_tokens(problem, *absent), rank, ll.EM)
        rows, right = found["received"], wanted["received"]
        same = (rows.view(np.uint16) == right.view(np.uint16)).all(axis=-1)
        before = (rows == ll.POISON).all(axis=-1)
        if np.array_equal(found["counters"], wanted["counters"]) and (same | before).all():
            return
    raise AssertionError(f"rank {rank}: no ranks' tokens are counted by {found['counters']}, and lie there")


def comes_back(seed: int, nodes: int = 1) -> None:
    """A rank stops, misses some exchanges, and takes part again after a cleaning; all that twice."""
    problem = ll.make_problem(FEW, seed)

    def main(rank: Any) -> Any:
        found = []
        with masked_group(rank, problem, TIMEOUT_NS) as group:
            survivor = Survivor(rank, group, problem, ll.RM)
            for _ in range(2):
                meet(rank)
                if rank.rank == LOST:
                    cluster.sim.silence(LOST)
                    rank.barrier()
                    cluster.sim.wake(LOST)
                else:
                    survivor.exchange().run(survivor.handle)
                    rank.synchronize()
                    rank.barrier()
                meet(rank)
                found += clean_and_run(survivor.whole, group, survivor.handle, 3)
        return found

    with simulated(problem.num_ranks, seed, nodes=nodes) as cluster:
        found = cluster.run(main)
    for i in range(6):
        ll.check(problem, ll.RM, each(found, i))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "dead": partial(lose, layout=ll.EM, act=dead),
    "dead-before-combine": partial(lose, layout=ll.EM, act=dead_before_combine, **FEW_WARPS),
    "dead-before-combine-rank-major": partial(lose, layout=ll.RM, act=dead_before_combine, **FEW_WARPS),
    "quiet": partial(lose, layout=ll.EM, act=quiet),
    "quiet-rank-major": partial(lose, layout=ll.RM, act=quiet),
    "bank-of-the-dead": bank_of_the_dead,
    "one-after-the-other": one_after_the_other,
    "hasty": hasty,
    "comes-back": comes_back,
}

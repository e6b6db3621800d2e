# SPDX-License-Identifier: Apache-2.0
"""Each wait of the Low-Latency kernels ends in vain: without masks as an error that names the wait and the
missing rank, with masks after a bounded time, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from both import fault
from ll import EM, RM, Exchange, Shape, group_config, make_problem
from ll_masks import check_left, check_mask, exchange_without, masked_group
from masks import each
from nccl_ep.sim import Schedule
from oracle import Problem
from wait_sites import Fault, Site, at_some_moment, check_witnesses, ends_in, title

pytestmark = pytest.mark.sim_only
LOST = 1
MISSING = frozenset({LOST})
TIMEOUT_NS = 500_000  # of simulated time; the clock leaps to a little more from where all wait
# With masks: who waits for the lost rank keeps others waiting, who have patience once more.
MOST_TIMEOUTS = 2
LEAP = 2.1  # the simulated clock may be ahead as far as it has come since something happened

FEW_TOKENS = Shape(num_topk=3, max_tokens=5)

Fall = Callable[[Any, Any, ep.Group, Exchange, ep.Handle], None]


def fall_silent(cluster: Any, rank: Any, group: ep.Group, mine: Exchange, handle: ep.Handle) -> None:
    cluster.sim.silence(rank.rank)


def dispatch_by_rank(cluster: Any, rank: Any, group: ep.Group, mine: Exchange, handle: ep.Handle) -> None:
    """Others dispatch expert-major: its units with the counts of experts are missing."""
    stray = Exchange(rank, mine.problem, RM)
    stray.dispatch(stray.make_handle(group))


@dataclass(frozen=True)
class Scene:
    """What makes a wait end in vain.

    Attributes:
        site: which.
        layout: of the exchange.
        before: calls of all ranks that end well.
        calls: those in which a rank is missing.
        fall: what the lost rank does in place of the calls. None: it makes them, and stops in the middle.
        behind: waits that end in vain if it stops earlier.
        alone: the lost rank alone has tokens.
        ranks_per_node: how many share a node; 0: all.
        witnesses: as in :class:`Fault`.
        shape: what the problem has besides its ranks.
        options: of the cluster.
    """

    site: Site
    layout: ep.Layout
    before: tuple[str, ...] = ()
    calls: tuple[str, ...] = ("dispatch",)
    fall: Fall | None = fall_silent
    behind: tuple[str, ...] = ()
    alone: bool = False
    ranks_per_node: int = 0
    witnesses: frozenset[int] | None = None
    shape: Shape = FEW_TOKENS
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return title(self.site)

    def problem(self, num_ranks: int, seed: int) -> Problem:
        most = self.shape.max_tokens
        tokens = tuple(most if rank == LOST or not self.alone else 0 for rank in range(num_ranks))
        shape = replace(self.shape, num_ranks=num_ranks, tokens=tokens, no_route=0)
        return with_routes_of_the_lost(make_problem(shape, seed))

    def num_ranks(self, seed: int) -> int:
        """Few for the first seed, which is cheap, and where a moment is searched for."""
        return 4 if seed == 1 or self.fall is None else 8

    def cluster(self, make_cluster: Any, num_ranks: int, seed: int) -> Any:
        nodes = num_ranks // self.ranks_per_node if self.ranks_per_node else 1
        return make_cluster(num_ranks, seed, nodes=nodes, **self.options)

    def start(self, rank: Any, group: ep.Group, problem: Problem) -> tuple[Exchange, ep.Handle]:
        """A rank's buffers and handle, when all ranks have made the calls before."""
        mine = Exchange(rank, problem, self.layout)
        handle = mine.make_handle(group)
        for name in self.before:
            getattr(mine, name)(handle)
        rank.synchronize()
        rank.barrier()
        return mine, handle

    def lose(self, cluster: Any, rank: Any, group: ep.Group, mine: Exchange, handle: ep.Handle,
             moment: int) -> None:  # fmt: skip
        """What the lost rank does."""
        if self.fall is not None:
            self.fall(cluster, rank, group, mine, handle)
            return
        cluster.sim.silence(rank.rank, after=moment)
        for name in self.calls:
            getattr(mine, name)(handle)


def with_routes_of_the_lost(problem: Problem) -> Problem:
    """The same problem, where each token of others goes to the lost rank, and some of its to each of them."""
    num_local, routes = problem.num_local_experts, [table.copy() for table in problem.topk_idx]
    for rank, table in enumerate(routes):
        if rank != LOST:
            table[:, 0] = num_local * LOST
            continue
        for place in range(table.size):
            table.flat[place] = place % problem.num_ranks * num_local + place // problem.num_ranks % num_local
    return replace(problem, topk_idx=routes)


# It sends counts, then routes, and then rows, one step of a lane after the other.
ONE_WARP = {"threads_per_block": 64, "sms": 1, "schedule": Schedule.UNIFORM}
MANY_ROUTES = Shape(num_topk=32, num_local_experts=16, max_tokens=16, hidden=16)
COUNTS = ("token_counts",)
ONE_TEAM = [
    Scene(("ll/arrivals.cuh", "token_counts"), RM),
    Scene(("ll/arrivals.cuh", "expert_counts"), EM, fall=dispatch_by_rank),
    Scene(
        ("ll/arrivals.cuh", "token_routes"), RM, fall=None, behind=COUNTS, shape=MANY_ROUTES, options=ONE_WARP
    ),
    Scene(
        ("ll/arrivals.cuh", "dispatch_row"),
        RM,
        fall=None,
        behind=(*COUNTS, "token_routes"),
        shape=MANY_ROUTES,
        options=ONE_WARP,
    ),
    Scene(("ll/combine.cuh", "route_weights"), EM, ("dispatch",), ("combine",), alone=True),
    Scene(("ll/collect.cuh", "combine_row"), RM, ("dispatch",), ("combine",)),
    # Nobody waits for anything else than its word that it has read the operation before the last one.
    Scene(("ll/operation.cuh", "bank_free"), RM, ("dispatch",), 3 * ("combine",), alone=True),
]
ACROSS_TEAMS = [
    Scene(("ll/remote.cuh", "bank_free"), RM, ("dispatch",), 3 * ("combine",), alone=True, ranks_per_node=1),
    Scene(("ll/dispatch_remote.cuh", "remote_counts"), RM, ranks_per_node=1),
    Scene(("ll/dispatch_remote.cuh", "remote_rows"), RM, fall=None, behind=("remote_counts",),
          shape=MANY_ROUTES, ranks_per_node=1, options={"schedule": Schedule.UNIFORM}),
    Scene(("ll/combine_remote.cuh", "remote_weights"), EM, ("dispatch",), ("combine",), alone=True,
          ranks_per_node=1),
    Scene(("ll/combine_remote.cuh", "remote_rows"), RM, ("dispatch",), ("combine",), ranks_per_node=1),
    Scene(("ll/combine_remote.cuh", "combine_row"), RM, ("dispatch",), ("combine",), ranks_per_node=2,
          witnesses=frozenset({LOST ^ 1})),
]  # fmt: skip


def run(scene: Scene, make_cluster: Any, seed: int) -> list[str]:
    """What each rank says without masks."""
    num_ranks = scene.num_ranks(seed)
    problem = scene.problem(num_ranks, seed)

    def act(moment: int, cluster_seed: int) -> list[str]:
        cluster = scene.cluster(make_cluster, num_ranks, cluster_seed)

        def main(rank: Any) -> str:
            with ep.Group(rank.comm, group_config(problem, timeout_ns=TIMEOUT_NS)) as group:
                mine, handle = scene.start(rank, group, problem)
                if rank.rank == LOST:
                    scene.lose(cluster, rank, group, mine, handle, moment)
                    return ""
                for name in scene.calls:
                    getattr(mine, name)(handle)
                rank.synchronize()
                return fault(rank, group, partial(mine.dispatch, handle)) if group.async_error() else ""

        said: list[str] = cluster.run(main)
        return said

    return at_its_moment(scene, seed, act, lambda said: said)


def at_its_moment(
    scene: Scene, seed: int, act: Callable[[int, int], Any], said_in: Callable[[Any], list[str]]
) -> Any:
    """What ``act`` returns: whatever the moment, or at one when the wait ends in vain."""
    if scene.fall is not None:
        return act(0, seed)
    # The lost rank serves the next one first.
    return at_some_moment(
        act,
        lambda found: ends_in(said_in(found)[LOST + 1], scene.site[1], MISSING),
        lambda found: any(ends_in(said_in(found)[LOST + 1], wait, MISSING) for wait in scene.behind),
        seed,
    )


FAULTS = [
    Fault(scene.site, MISSING, partial(run, scene), frozenset() if scene.fall is None else scene.witnesses)
    for scene in (*ONE_TEAM, *ACROSS_TEAMS)
]


@pytest.mark.parametrize("wait", FAULTS, ids=str)
def test_a_wait_in_vain_is_an_error_that_names_it(make_cluster: Any, wait: Fault, seed: int) -> None:
    wait.check(make_cluster, seed)


@pytest.mark.parametrize("scene", [*ONE_TEAM, *ACROSS_TEAMS], ids=str)
def test_with_masks_a_wait_in_vain_takes_no_longer_than_it_may(
    make_cluster: Any, scene: Scene, seed: int
) -> None:
    num_ranks = scene.num_ranks(seed)
    problem = scene.problem(num_ranks, seed)

    def act(moment: int, cluster_seed: int) -> Any:
        cluster = scene.cluster(make_cluster, num_ranks, cluster_seed)

        def main(rank: Any) -> Any:
            with masked_group(rank, problem, TIMEOUT_NS) as group:
                after = exchange_without(rank, problem, scene.layout, LOST)
                mine, handle = scene.start(rank, group, problem)
                if rank.rank == LOST:
                    scene.lose(cluster, rank, group, mine, handle, moment)
                    leave_alone(rank, group)
                    return "", 0, None
                start = cluster.sim.clock_ns
                for name in scene.calls:
                    getattr(mine, name)(handle)
                rank.synchronize()
                waited = cluster.sim.clock_ns - start
                loss = group.async_error()
                after.run(handle)
                results = after.results()
                check_mask(rank, group, LOST)
                return "" if loss is None else loss.message, waited, results

        return cluster.run(main)

    found = at_its_moment(scene, seed, act, lambda found: [message for message, _, _ in found])
    witnesses = frozenset() if scene.fall is None else scene.witnesses
    check_witnesses([message for message, _, _ in found], scene.site[1], MISSING, witnesses)
    for rank, (_, waited, _) in enumerate(found):
        assert waited <= LEAP * MOST_TIMEOUTS * TIMEOUT_NS, f"rank {rank} waited {waited} ns"
    check_left(problem, scene.layout, each(found, 2), LOST)


def leave_alone(rank: Any, group: ep.Group) -> None:
    """A host destroys its group without the others, if nobody is missing there or its GPU still runs."""
    is_lost = rank.rank == LOST
    group.update_mask([int((other == LOST) == is_lost) for other in range(rank.num_ranks)])
    with suppress(ep.SystemFailure):
        rank.synchronize()


def run_cleaning(wait: str, searched: bool, nodes: int, make_cluster: Any, seed: int) -> list[str]:
    """What each rank says of a cleaning to which one does not come, or in the middle of which it stops."""
    num_ranks = 4
    problem = make_problem(Shape(num_ranks=num_ranks), seed)

    def act(moment: int, cluster_seed: int) -> list[str]:
        cluster = make_cluster(num_ranks, cluster_seed, nodes=nodes)

        def main(rank: Any) -> str:
            with masked_group(rank, problem, TIMEOUT_NS) as group:
                rank.barrier()
                if rank.rank == LOST:
                    cluster.sim.silence(LOST, after=moment)
                    with suppress(ep.SystemFailure):
                        group.clean_mask()
                    leave_alone(rank, group)
                    return ""
                start = cluster.sim.clock_ns
                ranks = who_did_not_come(group)
                assert ranks in ((), (LOST,))
                check_mask(rank, group, *ranks)
                assert cluster.sim.clock_ns - start <= LEAP * MOST_TIMEOUTS * TIMEOUT_NS
                loss = group.async_error()
                leave_alone(rank, group)
                return "" if loss is None else loss.message

        said: list[str] = cluster.run(main)
        return said

    if not searched:
        return act(0, seed)
    return at_some_moment(
        act,
        lambda said: any(ends_in(text, wait, MISSING) for text in said),
        lambda said: any(ends_in(text, "mask_meeting", MISSING) for text in said),
        seed,
    )


def who_did_not_come(group: ep.Group) -> tuple[int, ...]:
    """Cleans the mask."""
    try:
        group.clean_mask()
    except ep.RemoteError as failure:
        return failure.ranks
    return ()


CLEANING_FAULTS = [
    Fault(("common/clean.cuh", wait), MISSING, partial(run_cleaning, wait, searched, nodes), witnesses)
    for nodes in (1, 2, 4)
    for wait, searched, witnesses in (
        ("mask_meeting", False, None),
        ("mask_agreement", True, frozenset[int]()),
    )
]


@pytest.mark.parametrize("wait", CLEANING_FAULTS, ids=str)
def test_a_wait_of_cleaning_in_vain_leaves_the_rank_masked(make_cluster: Any, wait: Fault, seed: int) -> None:
    wait.check(make_cluster, seed)

# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels. Calls are chained without waiting for the host in between, since
that would hide what reuses buffers too early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ll
import nccl_ep as ep
import numpy as np
from graphs import Lane, Receipt, run_in_flight
from harness import TIMEOUT_NS, check_counts, check_gives_up, simulated
from masks import meet
from nccl_ep.sim import Schedule
from oracle import tokens_for_rank

NUM_CALLS = 4
LAST = 2  # of three ranks
FEW = ll.Shape(num_ranks=3, num_topk=3, hidden=320, max_tokens=6, tokens=(6, 3, 5))
MANY = ll.Shape(num_ranks=3, num_topk=3, hidden=640, max_tokens=40, tokens=(40, 33, 36))
MANY_HITS = ll.Shape(num_local_experts=64, num_topk=64, hidden=8, max_tokens=16, tokens=(16, 13))
REPEATS = ll.Shape(num_local_experts=3, num_topk=6, max_tokens=16, tokens=(16, 13), repeats=True)
THRIFT = ll.Shape(num_topk=4, hidden=7168, max_tokens=4, tokens=(4, 4), no_route=0)
LATE = ll.Shape(num_ranks=3, num_topk=3, hidden=320, max_tokens=24, tokens=(0, 0, 24))
IDLE_BLOCKS = ll.Shape(max_tokens=64, tokens=(1, 2))


def chained(
    seed: int, layout: ep.Layout, problems: list[ll.Problem], max_num_sms: int = 0, **options: Any
) -> None:
    """Several dispatches and combines in a row; raises if a rank received something else than it must.

    ``options`` are the simulated cluster's.
    """

    def main(rank: Any) -> Any:
        with make_group(rank, problems[0], max_num_sms=max_num_sms) as group:
            exchanges = [ll.Exchange(rank, problem, layout) for problem in problems]
            handles = [exchange.make_handle(group) for exchange in exchanges]
            for exchange, handle in zip(exchanges, handles, strict=True):
                exchange.run(handle)
            return [exchange.results() for exchange in exchanges]

    with simulated(problems[0].num_ranks, seed, **options) as cluster:
        results = cluster.run(main)
    for i, problem in enumerate(problems):
        ll.check(problem, layout, [result[i] for result in results])


def many_hits(seed: int) -> None:
    """All experts of a token are on the same rank, more than a warp has lanes."""
    for schedule in (Schedule.WARPS, Schedule.BURSTS, Schedule.STARVE):
        for again in (seed, seed + 1000):
            chained(again, ll.EM, many_hits_problems(again), schedule=schedule)


def many_hits_problems(seed: int) -> list[ll.Problem]:
    """Problems in which all experts of a token are on one rank."""
    problems = make_problems(seed, MANY_HITS)
    random = np.random.default_rng(seed)
    for routes in (routes for problem in problems for routes in problem.topk_idx):
        for token, experts in enumerate(routes):
            experts[:] = token % 2 * MANY_HITS.num_local_experts + random.permutation(MANY_HITS.num_topk)
    return problems


def idle_receiver(seed: int, **options: Any) -> None:
    """Only the last rank has tokens, and combines again and again.

    Rank-major, so nothing tells the other ranks how far it is but its word that a bank is free.
    """
    problem = ll.make_problem(LATE, seed)

    def main(rank: Any) -> Any:
        with make_group(rank, problem) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM) for _ in range(4 * NUM_CALLS)]
            handle = exchanges[0].make_handle(group)
            exchanges[0].dispatch(handle)
            for exchange in exchanges:
                exchange.combine(handle)
            return [rank.read(exchange.combined) for exchange in exchanges]

    for again in range(seed, seed + 6000, 1000):
        with simulated(LATE.num_ranks, again, **options) as cluster:
            results = cluster.run(main)
        for rank, found in enumerate(results):
            for combined in found:
                check_combined(combined, problem, rank)


def in_flight(seed: int, receipt: Receipt, tokens: tuple[int, ...], **options: Any) -> None:
    """Two handles combine in turn, and each begins while the other's combine is still to be received."""
    problem = ll.make_problem(replace(FEW, tokens=tokens), seed)

    def main(rank: Any) -> Any:
        with make_group(rank, problem) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM) for _ in range(2)]
            handles = [exchange.make_handle(group) for exchange in exchanges]
            streams = [rank.stream() for _ in exchanges]
            for exchange, handle in zip(exchanges, handles, strict=True):
                exchange.dispatch(handle)
            meet(rank)
            lanes = [Lane(*lane) for lane in zip(exchanges, handles, streams, strict=True)]
            run_in_flight(lanes, 2 * NUM_CALLS * ["combine"], receipt)
            return [rank.read(exchange.combined) for exchange in exchanges]

    with simulated(problem.num_ranks, seed, **options) as cluster:
        if (
            receipt is Receipt.BEHIND_THE_NEXT
        ):  # so that the other ranks are ahead as far as its word lets them
            cluster.sim.delay(LAST, 30_000)
        results = cluster.run(main)
    for rank, found in enumerate(results):
        for combined in found:
            check_combined(combined, problem, rank)


def counts(seed: int) -> None:
    """The number of tokens is read on the device, and is another one at each call."""
    problems = make_problems(seed, replace(FEW, tokens=None))
    with simulated(FEW.num_ranks, seed) as cluster:
        check_counts(
            cluster,
            problems,
            ll.EM,
            make_group,
            partial(ll.Exchange, layout=ll.EM),
            partial(ll.expected, layout=ll.EM),
        )


def silent_receiver(seed: int) -> None:
    """The only rank with tokens falls silent, and awakes when the others have given up on it.

    What they sent before is in its banks, and they must not have touched it any more.
    """
    silent = 2
    problem = ll.make_problem(replace(FEW, tokens=(0, 0, 6)), seed)

    def main(rank: Any) -> None:
        with make_group(rank, problem) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM) for _ in range(NUM_CALLS)]
            handle = exchanges[0].make_handle(group)
            exchanges[0].dispatch(handle)
            meet(rank)
            if rank.rank == silent:
                cluster.sim.silence(silent)
                exchanges[0].combine(handle)
                rank.barrier()
                cluster.sim.wake(silent)
                check_combined(rank.read(exchanges[0].combined), problem, silent)
            else:
                check_gives_up(rank, silent, *(partial(mine.combine, handle) for mine in exchanges))
                rank.barrier()

    with simulated(FEW.num_ranks, seed) as cluster:
        cluster.run(main)


def silent_source(seed: int, layout: ep.Layout) -> None:
    """A rank is silent from the start. The others say so, and do not believe what it has not sent.

    What a handle remembers of a dispatch that failed is garbage, and nobody combines with it. A lane has the
    counts of several sources to wait for.
    """
    silent = 0
    problem = ll.make_problem(replace(FEW, num_local_experts=48, no_route=0), seed)

    def main(rank: Any) -> None:
        with make_group(rank, problem) as group:
            exchange = ll.Exchange(rank, problem, layout)
            memory = rank.array(np.full(group.handle_mem_size(layout, FEW.num_topk), 0xFF, np.uint8))
            handle = exchange.make_handle(group, handle_mem=memory)
            meet(rank)
            if rank.rank == silent:
                cluster.sim.silence(silent)
            else:
                check_gives_up(rank, silent, partial(exchange.run, handle))

    with simulated(FEW.num_ranks, seed, threads_per_block=64) as cluster:
        cluster.run(main)


def silent_in_between(
    seed: int,
    layout: ep.Layout,
    shape: ll.Shape,
    timeout_ns: int = TIMEOUT_NS,
    *,
    named: bool = True,
    **options: Any,
) -> None:
    """A rank falls silent between dispatch and combine.

    The others wait for its rows in vain, and in the expert-major layout before that for its weights.
    ``named``: that it is the one they name, not one that it keeps waiting.
    """
    silent = 1
    problem = ll.make_problem(replace(shape, no_route=0), seed)

    def main(rank: Any) -> None:
        with make_group(rank, problem, timeout_ns=timeout_ns) as group:
            exchange = ll.Exchange(rank, problem, layout)
            handle = exchange.make_handle(group)
            exchange.dispatch(handle)
            meet(rank)
            if rank.rank == silent:
                group.async_error()  # with little time it has given up as well
                cluster.sim.silence(silent)
            else:
                expected = silent if named and timeout_ns == TIMEOUT_NS else None
                check_gives_up(rank, expected, partial(exchange.combine, handle))

    with simulated(shape.num_ranks, seed, **options) as cluster:
        cluster.run(main)


def impatient(seed: int) -> None:
    """Time is so short that some warps give up while others are in the middle of looking. All must end."""
    for i, timeout_ns in enumerate(
        (5, 20, 50, 100, 150, 200, 250, 300, 400, 500, 650, 800, 1000, 1300, 2000)
    ):
        silent_in_between(seed + 1000 * i, ll.RM, MANY, timeout_ns, schedule=Schedule.UNIFORM)


def thrift(seed: int) -> None:
    """Combine sends each row home once, and little besides."""
    problem = ll.make_problem(THRIFT, seed)

    def main(rank: Any) -> None:
        with make_group(rank, problem) as group:
            exchange = ll.Exchange(rank, problem, ll.RM)
            handle = exchange.make_handle(group)
            exchange.dispatch(handle)
            meet(rank)
            if rank.rank == 0:
                cluster.sim.reset_traffic()
            rank.barrier()
            exchange.combine(handle)
            rank.synchronize()

    with simulated(THRIFT.num_ranks, seed) as cluster:
        cluster.run(main)
        sent = cluster.sim.traffic()["bytes"]
    row_bytes = problem.hidden * problem.dtype.itemsize
    for rank in range(THRIFT.num_ranks):
        for home in {*range(THRIFT.num_ranks)} - {rank}:
            least = row_bytes * len(tokens_for_rank(problem, home, rank))
            found = int(sent[rank, home])
            assert found <= 1.05 * least, f"rank {rank} sends {found} bytes to {home}, expected {least}"


def bad_expert(seed: int) -> None:
    """A token names an expert that does not exist, which is found while the leaders look for failures."""
    problem = ll.make_problem(replace(FEW, no_route=0), seed)
    for routes in problem.topk_idx:
        routes[0, 0] = problem.num_experts

    def main(rank: Any) -> None:
        with make_group(rank, problem) as group:
            exchange = ll.Exchange(rank, problem, ll.RM)
            handle = exchange.make_handle(group)
            meet(rank)
            exchange.dispatch(handle)
            rank.synchronize()
            try:
                exchange.dispatch(handle)
            except ep.InvalidArgument:
                return
            raise AssertionError(f"rank {rank.rank} does not say that the expert does not exist")

    for schedule in (Schedule.UNIFORM, Schedule.BURSTS):
        with simulated(FEW.num_ranks, seed, schedule=schedule) as cluster:
            cluster.run(main)


def make_problems(seed: int, shape: ll.Shape) -> list[ll.Problem]:
    """A problem for each call."""
    return [ll.make_problem(shape, seed * 100 + i) for i in range(NUM_CALLS)]


def make_group(rank: Any, problem: ll.Problem, **changes: Any) -> ep.Group:
    """A group that fits the problem and whose waits end."""
    return ep.Group(rank.comm, ll.group_config(problem, **{"timeout_ns": TIMEOUT_NS, **changes}))


def check_combined(combined: ll.Array, problem: ll.Problem, rank: int) -> None:
    """Compares what a rank-major combine gave a rank with what it must be."""
    wanted = ll.expected(problem, rank, ll.RM)["combined"]
    ll.assert_same_bits(combined, wanted, f"rank {rank}: combined")


SCENARIOS: dict[str, Callable[[int], None]] = {
    "expert-major": lambda seed: chained(seed, ll.EM, make_problems(seed, FEW)),
    "expert-major-many": lambda seed: chained(seed, ll.EM, make_problems(seed, MANY)),
    "rank-major": lambda seed: chained(seed, ll.RM, make_problems(seed, FEW)),
    "rank-major-many": lambda seed: chained(seed, ll.RM, make_problems(seed, MANY)),
    "many-hits": many_hits,
    "repeats": lambda seed: chained(seed, ll.EM, make_problems(seed, REPEATS)),
    "two-warps": lambda seed: chained(seed, ll.EM, make_problems(seed, FEW), threads_per_block=64),
    "few-blocks": lambda seed: chained(seed, ll.EM, make_problems(seed, MANY), max_num_sms=1),
    "idle-blocks": lambda seed: chained(
        seed, ll.EM, make_problems(seed, IDLE_BLOCKS), sms=16, schedule=Schedule.WARPS
    ),
    "idle-receiver": idle_receiver,
    "in-flight": partial(
        in_flight, receipt=Receipt.AS_THE_NEXT_BEGINS, tokens=FEW.tokens, schedule=Schedule.WARPS
    ),
    "in-flight-again": lambda seed: in_flight(
        seed + 1000, Receipt.AS_THE_NEXT_BEGINS, FEW.tokens, schedule=Schedule.WARPS
    ),
    "in-flight-late": partial(in_flight, receipt=Receipt.BEHIND_THE_NEXT, tokens=(0, 0, 6)),
    "counts": counts,
    "silent-receiver": silent_receiver,
    "silent-source": lambda seed: silent_source(seed, ll.EM),
    "silent-source-rank-major": lambda seed: silent_source(seed, ll.RM),
    "silent-home": lambda seed: silent_in_between(seed, ll.EM, FEW),
    "silent-expert": lambda seed: silent_in_between(seed, ll.RM, FEW),
    "impatient": impatient,
    "thrift": thrift,
    "bad-expert": bad_expert,
}

# What kernels are named after, and the scenarios, here and in the other files of Low Latency, that use the
# second layout.
LAYOUTS = frozenset({"expert_major", "rank_major"})
RANK_MAJOR = frozenset(
    {"rank-major", "rank-major-many", "idle-receiver", "in-flight", "in-flight-again", "in-flight-late"}
    | {"silent-receiver", "silent-source-rank-major"}
    | {"silent-expert", "impatient", "thrift", "bad-expert"}
    | {
        "dead-before-combine-rank-major",
        "quiet-rank-major",
        "bank-of-the-dead",
        "comes-back",
        "comes-later",
        "half-dead",
    }
)


def layout_of(scenario: str) -> str:
    """The layout of a Low-Latency scenario."""
    return "rank_major" if scenario in RANK_MAJOR else "expert_major"

# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the High-Throughput kernels. Calls are chained without waiting for the host in between, since
that would hide what reuses buffers too early.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import harness
import ht
import nccl_ep as ep
import numpy as np
from harness import TIMEOUT_NS, check_counts, check_gives_up
from ht import EM, FLAT, Exchange, Mode
from ll import POISON, Problem, Shape, make_problem
from masks import meet
from nccl_ep.sim import Schedule

NUM_PROBLEMS = 2
NUM_STEPS = 2  # of each, into the same outputs
NUM_CALLS = 12  # of a scenario in which a rank is ahead
ONE_SM = {"max_num_sms": 1}
STEP_LIMIT = 200_000_000  # most are jumps: bulk copies take their time
EXPERT_MAJOR = Mode(EM)
FEW = Shape(num_ranks=3, num_local_experts=3, num_topk=4, hidden=32, max_tokens=6, tokens=(6, 3, 5))
REPEATS = replace(FEW, num_topk=6, repeats=True)
MANY_HITS = Shape(num_local_experts=40, num_topk=40, hidden=8, max_tokens=4, tokens=(4, 3))
UNEVEN = Shape(num_topk=3, hidden=8, max_tokens=40, tokens=(40, 1))
DROPS = replace(FEW, num_local_experts=2, tokens=(6, 6, 6), no_route=0)
TILES = Shape(num_topk=2, hidden=8, max_tokens=200, tokens=(150, 130))
QUEUE = Shape(num_topk=2, hidden=8, max_tokens=120, tokens=(120, 2), no_route=0)
ONE_SOURCE = replace(UNEVEN, max_tokens=70, tokens=(0, 70))
TICKETS = Shape(num_topk=2, hidden=8, max_tokens=80, tokens=(80, 70))
MANY_RANKS = Shape(num_ranks=8, tokens=(4,) * 8, no_route=0)
PIECES = Shape(num_ranks=3, num_topk=3, hidden=160, max_tokens=12, tokens=(12, 9, 10))


def chained(
    seed: int, mode: Mode, shape: Shape, config: dict[str, int] | None = None, **options: Any
) -> None:
    """Several steps in a row; raises if a rank received something else than it must.

    ``config`` changes the group's and ``options`` are the simulated cluster's.
    """
    problems = make_problems(seed, shape)
    mode = with_budget(mode, problems)

    def main(rank: Any) -> Any:
        with make_group(rank, problems[0], mode, **(config or {})) as group:
            found = []
            for exchange in [Exchange(rank, problem, mode) for problem in problems]:
                handle = exchange.make_handle(group)
                found += [step(rank, exchange, handle) for _ in range(NUM_STEPS)]
            rank.synchronize()
            return found

    with simulated(shape.num_ranks, seed, **options) as cluster:
        results = zip(*cluster.run(main), strict=True)
    for i, found in enumerate(results):
        ht.check(problems[i // NUM_STEPS], mode, list(found))


def step(rank: Any, exchange: Exchange, handle: ep.Handle) -> dict[str, Any]:
    """A dispatch and a combine, and something on the stream that reads what has come, as a caller would."""
    of_layout = "expert_offsets" if exchange.mode.layout is EM else "received_idx"
    exchange.dispatch(handle)
    found = copies(rank, exchange, "expert_counters", "total", "received", "received_weights", of_layout)
    exchange.combine(handle)
    return found | copies(rank, exchange, "combined", "combined_weights")


def copies(rank: Any, exchange: Exchange, *names: str) -> dict[str, Any]:
    """Of some outputs, made on the stream."""
    found = {}
    for name in names:
        output = getattr(exchange, name)
        found[name] = rank.sim.empty(output.shape, output.dtype)
        rank.sim.default_stream.copy(found[name], output)
    return found


def ahead(seed: int) -> None:
    """Only rank 0 has tokens, and dispatches again and again.

    Nothing but their word that they have started tells it how far the others are.
    """
    problem = make_problem(replace(FEW, tokens=(6, 0, 0)), seed)
    mode = with_budget(Mode(FLAT), [problem])

    def main(rank: Any) -> Any:
        with make_group(rank, problem, mode) as group:
            exchange = Exchange(rank, problem, mode)
            handle = exchange.make_handle(group)
            exchange.combine(handle)
            for _ in range(NUM_CALLS):
                exchange.dispatch(handle)
            return exchange.results()

    with simulated(problem.num_ranks, seed) as cluster:
        ht.check(problem, mode, cluster.run(main))


def overflows(seed: int, times: int = 8, **options: Any) -> None:
    for i in range(times):
        overflow(seed + 1000 * i, **options)


def overflow(
    seed: int, mode: Mode = EXPERT_MAJOR, num_ranks: int = 3, num_rows: int = 36, **options: Any
) -> None:
    """More rows come to one rank than it has room for. All ranks say so, and nothing is written."""
    shape = replace(FEW, num_ranks=num_ranks, num_topk=2, no_route=0, tokens=(6,) * num_ranks)
    problem = make_problem(shape, seed)
    for routes in problem.topk_idx:
        routes[...] = [4, 5]
    enough = with_budget(mode, [problem])

    def main(rank: Any) -> None:
        with make_group(rank, problem, replace(mode, budget=problem.max_tokens)) as group:
            exchange = Exchange(rank, problem, enough)  # what is written behind the budget shows
            handle = exchange.make_handle(group)
            said = "nothing"
            try:
                exchange.dispatch(handle)
                rank.synchronize()
                exchange.dispatch(handle)
            except ep.InvalidUsage as error:
                said = str(error)
            assert f"rank 1 would receive {num_rows} rows" in said, f"rank {rank.rank} says {said}"
            assert (rank.read(exchange.received).astype(np.float32) == POISON).all()

    with simulated(problem.num_ranks, seed, **options) as cluster:
        cluster.run(main)


def silent_update(seed: int) -> None:
    """A rank is silent from the start. The others say so, and do not believe what it has not sent.

    What a handle remembers of an update that failed is garbage.
    """
    silent = 1
    problem = make_problem(replace(FEW, no_route=0), seed)
    mode = with_budget(Mode(EM), [problem])

    def main(rank: Any) -> None:
        with make_group(rank, problem, mode) as group:
            exchange = Exchange(rank, problem, mode)
            memory = rank.array(np.full(group.handle_mem_size(EM, problem.num_topk), 0xFF, np.uint8))
            handle = group.init_handle(EM, problem.num_topk, handle_mem=memory)
            meet(rank)
            if rank.rank == silent:
                cluster.sim.silence(silent)
            else:
                calls = (exchange.update, exchange.dispatch, exchange.combine)
                check_gives_up(rank, silent, *(partial(call, handle) for call in calls))

    with simulated(problem.num_ranks, seed) as cluster:
        cluster.run(main)


def silent_combine(seed: int) -> None:
    """A rank is silent before combine, and the few warps of the others wait for it instead of serving all."""
    silent = 1
    problem = make_problem(MANY_RANKS, seed)
    mode = with_budget(Mode(FLAT), [problem])

    def main(rank: Any) -> None:
        with make_group(rank, problem, mode, max_num_sms=1) as group:
            exchange = Exchange(rank, problem, mode)
            handle = exchange.make_handle(group)
            exchange.dispatch(handle)
            meet(rank)
            if rank.rank == silent:
                cluster.sim.silence(silent)
            else:
                check_gives_up(rank, silent, partial(exchange.combine, handle))

    with simulated(problem.num_ranks, seed) as cluster:
        cluster.run(main)


def no_records(seed: int) -> None:
    """A rank aligns experts so generously that it finds no room, and sends no records. The others say so."""
    stray = 1
    problem = make_problem(replace(FEW, no_route=0), seed)
    mode = with_budget(Mode(EM), [problem])

    def main(rank: Any) -> None:
        with make_group(rank, problem, mode) as group:
            config = ep.HandleConfig(128 if rank.rank == stray else 0)
            handle = group.init_handle(EM, problem.num_topk, config=config)
            exchange = Exchange(rank, problem, mode)
            if rank.rank == stray:
                exchange.update(handle)
            else:
                check_gives_up(rank, stray, partial(exchange.update, handle))

    with simulated(problem.num_ranks, seed) as cluster:
        cluster.run(main)


def late_flags(seed: int) -> None:
    for moment in range(500, 2500, 100):
        late_flag(seed + moment, moment)


def late_flag(seed: int, moment: int) -> None:
    """The warp of rank 2 that raises flags stands still from some moment on, and goes on when nothing can
    without it. If its rows have been pushed, others are in the next operation, unless they await these flags.

    Rank 0 has sent rank 1 its results there, and rank 1 adds those of both to each of its tokens, so it still
    looks for the flags of rank 0 when late ones overwrite them.
    """
    shape = Shape(num_ranks=3, num_local_experts=1, num_topk=2, hidden=32, max_tokens=6, tokens=(0, 6, 6))
    problem = make_problem(replace(shape, no_route=0), seed)
    problem.topk_idx[1][...], problem.topk_idx[2][...] = [0, 2], [0, 1]
    mode = with_budget(Mode(EM, windows=True, backward=True), [problem])

    def main(rank: Any) -> Any:
        with make_group(rank, problem, mode) as group:
            exchange = Exchange(rank, problem, mode)
            handle = exchange.make_handle(group)
            meet(rank)
            if rank.rank == 2:
                cluster.sim.stop_warps(2, first_warp=1, after=moment)
                cluster.sim.wake(2, after=STEP_LIMIT // 2)
            exchange.run(handle)
            return exchange.results()

    with simulated(problem.num_ranks, seed, sms=1, threads_per_block=96) as cluster:
        ht.check(problem, mode, cluster.run(main))


def tuned(tuning: str, scenario: Callable[[int], None]) -> Callable[[int], None]:
    """The scenario with a plan's choices pinned."""

    def run(seed: int) -> None:
        os.environ["NCCL_EP_HT_TUNING"] = tuning
        scenario(seed)

    return run


def simulated(num_ranks: int, seed: int, **options: Any) -> AbstractContextManager[Any]:
    """A cluster in which nothing goes on for ever."""
    return harness.simulated(num_ranks, seed, step_limit=STEP_LIMIT, **options)


def make_problems(seed: int, shape: Shape) -> list[Problem]:
    """Several problems of a shape."""
    return [make_problem(shape, seed * 100 + i) for i in range(NUM_PROBLEMS)]


def with_budget(mode: Mode, problems: list[Problem]) -> Mode:
    """The mode with room for what any rank receives, so that no call asks the host how much that is.

    If it drops, it has as little room as it may.
    """
    if mode.drop:
        return replace(mode, budget=problems[0].max_tokens)
    return replace(mode, budget=max(ht.budget_for(problem, mode) for problem in problems))


def make_group(rank: Any, problem: Problem, mode: Mode, **changes: Any) -> ep.Group:
    """A group that fits the problem and whose waits end."""
    return ep.Group(rank.comm, ht.group_config(problem, mode, **{"timeout_ns": TIMEOUT_NS, **changes}))


def counts(seed: int) -> None:
    """The number of tokens is read on the device, and is another one at each call."""
    problems = make_problems(seed, replace(FEW, tokens=None))
    mode = Mode(FLAT, budget=FEW.num_ranks * FEW.max_tokens)
    with simulated(FEW.num_ranks, seed) as cluster:
        check_counts(
            cluster,
            problems,
            FLAT,
            partial(make_group, mode=mode),
            partial(Exchange, mode=mode),
            partial(ht.expected, mode=mode),
        )


def updates(seed: int) -> None:
    """A handle gets one routing after another, and the last one is used."""
    problems = make_problems(seed, FEW)
    mode = with_budget(Mode(FLAT), problems)

    def main(rank: Any) -> Any:
        with make_group(rank, problems[0], mode) as group:
            first, *others = (Exchange(rank, problem, mode) for problem in problems)
            handle = first.make_handle(group)
            for exchange in others:
                exchange.update(handle)
            others[-1].run(handle)
            return others[-1].results()

    with simulated(FEW.num_ranks, seed) as cluster:
        ht.check(problems[-1], mode, cluster.run(main))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "flat": partial(chained, mode=Mode(FLAT), shape=FEW),
    "flat-windows": partial(chained, mode=Mode(FLAT, windows=True), shape=FEW),
    "expert-major": partial(chained, mode=Mode(EM, alignment=4), shape=FEW),
    "backward": partial(chained, mode=Mode(FLAT, backward=True), shape=FEW),
    "repeats": partial(chained, mode=Mode(EM), shape=REPEATS),
    "many-hits": partial(chained, mode=Mode(EM, backward=True), shape=MANY_HITS),
    "uneven": partial(chained, mode=Mode(FLAT), shape=UNEVEN, config=ONE_SM),
    "one-source": partial(chained, mode=Mode(FLAT), shape=ONE_SOURCE, config=ONE_SM),
    "tiles": tuned("tile_tokens=64", partial(chained, mode=Mode(EM), shape=TILES, config={"max_num_sms": 2})),
    "pieces": tuned("piece_bytes=32", partial(chained, mode=Mode(FLAT), shape=PIECES, config=ONE_SM)),
    "tickets": partial(chained, mode=Mode(FLAT, windows=True), shape=TICKETS, schedule=Schedule.UNIFORM),
    "queue": partial(chained, mode=Mode(EM), shape=QUEUE, config=ONE_SM),
    "idle-blocks": partial(
        chained, mode=Mode(FLAT), shape=replace(FEW, tokens=(1, 0, 2)), sms=16, schedule=Schedule.WARPS
    ),
    "ahead": ahead,
    "counts": counts,
    "updates": updates,
    "overflow": overflows,
    "drops": partial(chained, mode=Mode(FLAT, drop=True), shape=DROPS),
    "drops-expert-major": partial(chained, mode=Mode(EM, drop=True, windows=True, alignment=2), shape=DROPS),
    "silent-update": silent_update,
    "silent-combine": silent_combine,
    "no-records": no_records,
    "late-flags": late_flags,
}

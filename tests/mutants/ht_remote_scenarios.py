# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the High-Throughput kernels that use the network.

All have the flat layout: what crosses between teams is the same in the other one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ht
from harness import check_gives_up
from ht import FLAT, Exchange, Mode
from ht_scenarios import chained, make_group, make_problem, overflows, simulated, tuned, with_budget
from ll import Shape
from masks import meet
from nccl_ep.sim import Schedule

FEW = Shape(num_ranks=4, num_local_experts=2, num_topk=3, hidden=16, max_tokens=6, tokens=(6, 3, 5, 4))
RAILS = replace(FEW, num_ranks=3, tokens=(6, 3, 5))
CHUNKS = replace(FEW, tokens=(6, 5, 6, 6), no_route=0)
TILES = Shape(num_topk=2, hidden=8, max_tokens=64, tokens=(64, 40))
BLOCKS = Shape(
    num_ranks=6, num_local_experts=1, num_topk=1, hidden=8, max_tokens=70, tokens=(70, 66, 65, 70, 68, 70)
)
IDLE = replace(FEW, tokens=(6, 0, 0, 4))
DROPS = replace(FEW, tokens=(6, 6, 6, 6), no_route=0)
ONE_PARCEL = {"max_token_bytes": 128 * 1024}  # of which a chunk has room for one
TWO_PARCELS = {"max_token_bytes": 64 * 1024}
NUM_UPDATES = 6


def between(nodes: int, mode: Mode, shape: Shape, **options: Any) -> Callable[[int], None]:
    """Several steps in a row of teams, one a node."""
    mode = replace(mode, team_size=shape.num_ranks // nodes)
    return partial(chained, mode=mode, shape=shape, nodes=nodes, **options)


def updates(seed: int) -> None:
    """Updates in a row: nothing but their own word tells ranks how far the others are."""
    problems = [make_problem(BLOCKS, seed * 100 + i) for i in range(NUM_UPDATES)]
    mode = with_budget(Mode(FLAT), problems)

    def main(rank: Any) -> Any:
        with make_group(rank, problems[0], mode) as group:
            exchanges = [Exchange(rank, problem, mode) for problem in problems]
            for exchange in exchanges:
                exchange.make_handle(group)
            return [exchange.counters() for exchange in exchanges]

    with simulated(BLOCKS.num_ranks, seed, nodes=3) as cluster:
        results = cluster.run(main)
    for i, problem in enumerate(problems):
        ht.check_counters(problem, mode, [result[i] for result in results])


def silent_team(seed: int) -> None:
    """A team is silent before an update. The ranks of the other one name their rail peers."""
    problem = make_problem(FEW, seed)
    mode = with_budget(Mode(FLAT), [problem])

    def main(rank: Any) -> None:
        with make_group(rank, problem, mode) as group:
            exchange = Exchange(rank, problem, mode)
            handle = exchange.make_handle(group)
            meet(rank)
            if rank.rank >= 2:
                cluster.sim.silence(rank.rank)
            else:
                check_gives_up(rank, rank.rank + 2, partial(exchange.update, handle))

    with simulated(problem.num_ranks, seed, nodes=2) as cluster:
        cluster.run(main)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "flat": between(2, Mode(FLAT), FEW),
    "backward": between(2, Mode(FLAT, backward=True), FEW),
    "rails": between(3, Mode(FLAT), RAILS),
    "chunks": between(2, Mode(FLAT), CHUNKS, config=TWO_PARCELS),
    "tiles": tuned("tile_tokens=32", between(2, Mode(FLAT), TILES)),
    "idle": between(2, Mode(FLAT, windows=True), IDLE),
    "drops": between(2, Mode(FLAT, drop=True), DROPS, config=ONE_PARCEL),
    "updates": tuned("tile_tokens=32", updates),
    "silent-team": silent_team,
    "overflow": partial(
        overflows,
        times=48,
        mode=Mode(FLAT, team_size=2),
        num_ranks=4,
        num_rows=24,
        nodes=2,
        schedule=Schedule.WARPS,
    ),
}

# SPDX-License-Identifier: Apache-2.0
"""Scenarios for High-Throughput groups with masks across LSA teams, in which ranks and nodes are lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import ht_mask_teams as lost
from ht import EM, FLAT, Mode
from ht_mask_runs import run_while_all_answer, run_with_some_that_come_back
from ht_scenarios import simulated
from ll import make_problem
from masks import ranks_of

NODES, GPUS, LOST_NODE = 2, 2, 1
SHAPE = lost.shape_of(NODES, GPUS, tokens=(6, 5, 6, 4))
DEAD = ranks_of(LOST_NODE, GPUS)
FLAT_MODE = Mode(FLAT, budget=64, team_size=GPUS)
EM_MODE = Mode(EM, budget=64, team_size=GPUS)


def dead_node(seed: int, mode: Mode) -> None:
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_the_dead(cluster, make_problem(SHAPE, seed), mode, DEAD, LOST_NODE)


def dead_rank(seed: int, mode: Mode) -> None:
    """The first one of all: what its team gets from others is not what they believe."""
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_the_dead(cluster, make_problem(SHAPE, seed), mode, (0,), None)


def dies_before(seed: int, mode: Mode, call: str) -> None:
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_deaths_before(cluster, make_problem(SHAPE, seed), mode, DEAD, call, seed)


def rank_dies_before_combine(seed: int) -> None:
    """It has gradients of tokens of the other team, whose home waits for those of the rest."""
    mode = replace(FLAT_MODE, backward=True)
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_gradients_lost(cluster, make_problem(SHAPE, seed), mode, max(DEAD), seed)


def no_lists(seed: int) -> None:
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_without_lists(cluster, make_problem(SHAPE, seed), EM_MODE, LOST_NODE)


def comes_back(seed: int) -> None:
    problem = make_problem(SHAPE, seed)
    with simulated(SHAPE.num_ranks, seed, nodes=NODES, checker=False) as cluster:
        run_with_some_that_come_back(cluster, problem, FLAT_MODE, DEAD, 0, "update", 1)


def drops(seed: int, mode: Mode, dead: bool) -> None:
    """Without all, teams count different things."""
    case = make_problem(SHAPE, seed), replace(mode, budget=SHAPE.max_tokens, drop=True)
    with simulated(SHAPE.num_ranks, seed, nodes=NODES) as cluster:
        if dead:
            lost.run_with_the_dead(cluster, *case, (0,), None)
        else:
            run_while_all_answer(cluster, *case)


def dies_when_counted(seed: int) -> None:
    """Its list does not come, so nothing is known of its rows. No row has a hit of a rank's first expert."""
    mode = replace(FLAT_MODE, budget=SHAPE.max_tokens, drop=True)
    problem = make_problem(SHAPE, seed)
    for routes in problem.topk_idx:
        routes[routes % SHAPE.num_local_experts == 0] += 1
    case = problem, mode, min(DEAD)
    with ExitStack() as clusters:
        found = lost.die_while_awaited(
            lambda cluster_seed: clusters.enter_context(
                simulated(SHAPE.num_ranks, cluster_seed, nodes=NODES, checker=False)
            ),
            *case,
            "remote_tallies",
            seed,
        )
    lost.check_after_a_death(*case, found)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "dead-node": partial(dead_node, mode=FLAT_MODE),
    "dead-node-expert-major": partial(dead_node, mode=EM_MODE),
    "dead-rank": partial(dead_rank, mode=FLAT_MODE),
    "dead-rank-expert-major": partial(dead_rank, mode=EM_MODE),
    "dies-before-dispatch": partial(dies_before, mode=FLAT_MODE, call="dispatch"),
    "dies-before-combine": partial(dies_before, mode=FLAT_MODE, call="combine"),
    "rank-dies-before-combine": rank_dies_before_combine,
    "no-lists": no_lists,
    "comes-back": comes_back,
    "drops": partial(drops, mode=FLAT_MODE, dead=False),
    "drops-expert-major": partial(drops, mode=EM_MODE, dead=False),
    "drops-dead-rank": partial(drops, mode=FLAT_MODE, dead=True),
    "dies-when-counted": dies_when_counted,
}

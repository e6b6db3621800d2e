# SPDX-License-Identifier: Apache-2.0
"""Scenarios for High-Throughput groups with ``exact_combine`` across LSA teams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ht_mask_teams as lost
from ht import EM, Mode
from ht_remote_scenarios import between
from ht_scenarios import simulated
from ll import Shape, make_problem
from masks import ranks_of

EXACT = Mode(EM, exact=True)
FEW = Shape(num_ranks=4, num_local_experts=3, num_topk=5, hidden=16, max_tokens=6, tokens=(6, 3, 5, 4))
NODES, GPUS, LOST_RANK = 2, 2, 3
WITH_MASKS = lost.shape_of(NODES, GPUS, num_local_experts=3, num_topk=5, tokens=(6, 5, 6, 4))


def rank_dies_before_combine(seed: int) -> None:
    """It has rows and gradients of tokens of the other team, whose home waits for those of the rest."""
    mode = replace(EXACT, backward=True, budget=128, team_size=GPUS)
    with simulated(WITH_MASKS.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_gradients_lost(cluster, make_problem(WITH_MASKS, seed), mode, LOST_RANK, seed)


def rank_dies_among_minus_zeros(seed: int) -> None:
    mode = replace(EXACT, budget=128, team_size=GPUS)
    with simulated(WITH_MASKS.num_ranks, seed, nodes=NODES) as cluster:
        lost.run_with_minus_zeros(cluster, make_problem(WITH_MASKS, seed), mode, LOST_RANK)


def node_dies_before_combine(seed: int) -> None:
    mode = replace(EXACT, budget=128, team_size=GPUS)
    with simulated(WITH_MASKS.num_ranks, seed, nodes=NODES) as cluster:
        problem = make_problem(WITH_MASKS, seed)
        lost.run_with_deaths_before(cluster, problem, mode, ranks_of(1, GPUS), "combine", seed)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "forward": between(2, EXACT, FEW),
    "backward": between(2, replace(EXACT, backward=True), FEW),
    "rank-dies-before-combine": rank_dies_before_combine,
    "rank-dies-among-minus-zeros": rank_dies_among_minus_zeros,
    "node-dies-before-combine": node_dies_before_combine,
}

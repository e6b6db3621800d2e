# SPDX-License-Identifier: Apache-2.0
"""Scenarios for groups with ``exact_combine``: chained steps, with more places in the top-k than ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import exact
import exact_masks
import nccl_ep as ep
from harness import TIMEOUT_NS, simulated
from ht import EM, Mode
from ht_scenarios import STEP_LIMIT
from ll import FP32, Shape, make_problem

SHAPE = Shape(num_topk=5, num_local_experts=4, max_tokens=4, tokens=(4, 3), dtype=FP32)
SHAPE_OF_TEAMS = Shape(num_ranks=4, num_topk=6, num_local_experts=3, max_tokens=4, dtype=FP32, repeats=True)


def low_latency(seed: int, shape: Shape = SHAPE, num_steps: int = 2, nodes: int = 1) -> None:
    """Raises if a rank has combined something else than it must."""
    problems = [make_problem(shape, seed + i) for i in range(num_steps)]
    main = partial(
        exact.combine_low_latency, problems=problems, overlaps=num_steps > 2, timeout_ns=TIMEOUT_NS
    )
    with simulated(shape.num_ranks, seed, nodes=nodes) as cluster:
        exact.check_low_latency(problems, cluster.run(main))


def high_throughput(seed: int) -> None:
    """The same."""
    problems, mode = [make_problem(SHAPE, seed + i) for i in range(2)], Mode(EM)
    main = partial(exact.combine_high_throughput, problems=problems, mode=mode, timeout_ns=TIMEOUT_NS)
    with simulated(SHAPE.num_ranks, seed, step_limit=STEP_LIMIT) as cluster:
        exact.check_high_throughput(problems, mode, cluster.run(main))


def without_a_rank(seed: int, algorithm: ep.Algorithm) -> None:
    """A rank is dead when the others combine."""
    with simulated(exact_masks.SHAPE.num_ranks, seed, step_limit=STEP_LIMIT) as cluster:
        exact_masks.check_dying_in_combine(cluster, algorithm, make_problem(exact_masks.SHAPE, seed), 0)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "low-latency": low_latency,
    "low-latency-teams": partial(low_latency, shape=SHAPE_OF_TEAMS, num_steps=3, nodes=2),
    "high-throughput": high_throughput,
    "low-latency-without-a-rank": partial(without_a_rank, algorithm=ep.Algorithm.LOW_LATENCY),
    "high-throughput-without-a-rank": partial(without_a_rank, algorithm=ep.Algorithm.HIGH_THROUGHPUT),
}

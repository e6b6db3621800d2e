# SPDX-License-Identifier: Apache-2.0
"""Scenarios for groups with ``exact_combine``: chained steps, with more places in the top-k than ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import exact
from harness import TIMEOUT_NS, simulated
from ht import EM, Mode
from ht_scenarios import STEP_LIMIT
from ll import FP32, Shape, make_problem

SHAPE = Shape(num_topk=5, num_local_experts=4, max_tokens=4, tokens=(4, 3), dtype=FP32)


def low_latency(seed: int) -> None:
    """Raises if a rank has combined something else than it must."""
    problems = [make_problem(SHAPE, seed + i) for i in range(2)]
    main = partial(exact.combine_low_latency, problems=problems, timeout_ns=TIMEOUT_NS)
    with simulated(SHAPE.num_ranks, seed) as cluster:
        exact.check_low_latency(problems, cluster.run(main))


def high_throughput(seed: int) -> None:
    """The same."""
    problems, mode = [make_problem(SHAPE, seed + i) for i in range(2)], Mode(EM)
    main = partial(exact.combine_high_throughput, problems=problems, mode=mode, timeout_ns=TIMEOUT_NS)
    with simulated(SHAPE.num_ranks, seed, step_limit=STEP_LIMIT) as cluster:
        exact.check_high_throughput(problems, mode, cluster.run(main))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "low-latency": low_latency,
    "high-throughput": high_throughput,
}

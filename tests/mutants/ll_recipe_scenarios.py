# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels whose rows have scales: a dispatch by a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import ll
from harness import TIMEOUT_NS, simulated
from ll_recipes import (
    Forwarded,
    Quantized,
    Recipe,
    check_combined,
    check_recipe,
    combine_quantized,
    exchange_by_recipe,
    make_sent,
)
from nccl_ep.dtypes import DataType

SHAPE = ll.Shape(num_topk=3, num_local_experts=3, max_tokens=6, tokens=(6, 5), no_route=0)


def dispatched(seed: int, recipe: Recipe) -> None:
    """One dispatch and combine; raises if a rank received something else than it must."""
    sent = make_sent(recipe, SHAPE, seed)
    with simulated(SHAPE.num_ranks, seed) as cluster:
        main = partial(exchange_by_recipe, sent=sent, layout=ll.EM, timeout_ns=TIMEOUT_NS)
        check_recipe(sent, ll.EM, cluster.run(main))


def combined(seed: int) -> None:
    """One dispatch and a combine whose rows travel as FP8."""
    problem = ll.make_problem(replace(SHAPE, hidden=1664), seed)
    with simulated(SHAPE.num_ranks, seed) as cluster:
        check_combined(problem, ll.EM, cluster.run(partial(combine_quantized, problem=problem, layout=ll.EM)))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "forwarded": lambda seed: dispatched(seed, Forwarded(DataType.FLOAT4X2, 160, DataType.UINT8, 37)),
    "combined": combined,
    "quantized": lambda seed: dispatched(seed, Quantized(1536)),
}

# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels whose rows have scales: a dispatch by a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import ll
import ll_nvfp4
import numpy as np
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


def returned(seed: int) -> None:
    """One dispatch and a combine whose rows travel as NVFP4, with weights of either sign.

    Some of rank 0's rows are zeros, and some have an element that is not finite; all of rank 1's are zeros.
    """
    random = np.random.default_rng(seed)
    problem = ll.make_problem(replace(SHAPE, hidden=928), seed)
    weights = [of * random.choice([-1, 1], of.shape).astype(np.float32) for of in problem.topk_weights]
    rows = ll_nvfp4.make_returned(replace(problem, topk_weights=weights), ll.EM, seed)
    of_some, of_none = rows.rows
    of_some[random.random(of_some.shape[:-1]) < 0.3] = 0
    of_none[...] = 0
    rows = ll_nvfp4.with_their_scales(rows)
    of_some[:, ::3, 17] = np.inf
    with simulated(SHAPE.num_ranks, seed) as cluster:
        main = partial(ll_nvfp4.combine_nvfp4, returned=rows)
        ll_nvfp4.check_combined(rows, cluster.run(main))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "forwarded": lambda seed: dispatched(seed, Forwarded(DataType.FLOAT4X2, 160, DataType.UINT8, 37)),
    "combined": combined,
    "returned": returned,
    "quantized": lambda seed: dispatched(seed, Quantized(1536)),
}

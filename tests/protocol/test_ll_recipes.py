# SPDX-License-Identifier: Apache-2.0
"""Rows with scales arrive as the oracles say: the caller's to the bit, those quantized on the way within the
stated error.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import NODES
from ll import EM, RM, Shape, assert_same_bits, make_problem
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

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
SHAPE = Shape(num_topk=3, num_local_experts=3, max_tokens=5)

# Scales of one pack and of many, of whole packs, of words, of bytes; payloads of one chunk and of two, with
# the scales in the first, in both, and in the second. A chunk has 93 packs.
FORWARDED = [
    Forwarded(DataType.FLOAT8E4M3, 256, DataType.FLOAT32, 2),
    Forwarded(DataType.FLOAT8E4M3, 1024, DataType.UINT8, 32),
    Forwarded(DataType.FLOAT8E5M2, 16, DataType.FLOAT16, 3),
    Forwarded(DataType.FLOAT4X2, 1440, DataType.UINT8, 90),
    Forwarded(DataType.BFLOAT16, 32, DataType.BFLOAT16, 900),
    Forwarded(DataType.FLOAT16, 1488, DataType.FLOAT8E5M2, 1),
    Forwarded(DataType.FLOAT32, 2000, DataType.FLOAT8E4M3, 17),
]
QUANTIZED = [Quantized(128), Quantized(640, rounded=True), Quantized(1536), Quantized(7168, rounded=True)]


def run(
    make_cluster: Any, recipe: Recipe, layout: ep.Layout, seed: int, nodes: int = 1, **options: Any
) -> None:
    sent = make_sent(recipe, SHAPE, seed)
    main = partial(exchange_by_recipe, sent=sent, layout=layout, **options)
    check_recipe(sent, layout, make_cluster(2, seed, nodes=nodes).run(main))


# Each recipe in both layouts, the one inside a team and the other across two, in turn.
CASES = [
    pytest.param(
        recipe,
        layout,
        nodes,
        id=f"{recipe}-{layout.name.lower()}-{nodes}",
        marks=[pytest.mark.sim_only] if nodes > 1 else [],
    )
    for i, recipe in enumerate([*FORWARDED, *QUANTIZED])
    for layout, nodes in ((EM, 1 + i % 2), (RM, 2 - i % 2))
]


@pytest.mark.parametrize(("recipe", "layout", "nodes"), CASES)
def test_recipes(make_cluster: Any, recipe: Recipe, layout: ep.Layout, nodes: int, seed: int) -> None:
    run(make_cluster, recipe, layout, seed, nodes)


@NODES
@pytest.mark.parametrize("recipe", [FORWARDED[3], QUANTIZED[2]], ids=str)
def test_send_now_receive_later(make_cluster: Any, recipe: Recipe, nodes: int, seed: int) -> None:
    run(make_cluster, recipe, EM, seed, nodes, halves=True)


def test_scales_in_a_window(make_cluster: Any, seed: int) -> None:
    """One of tokens and scales in a window is enough for zero copy."""
    run(make_cluster, FORWARDED[0], RM, seed, windows=True, zero_copy=ep.ZeroCopyMode.ON)


@NODES
@pytest.mark.parametrize("rounded", [False, True])
def test_elements_that_are_not_finite(make_cluster: Any, nodes: int, rounded: bool, seed: int) -> None:
    """Their groups arrive as NaN, all others as ever."""
    sent = make_sent(Quantized(640, rounded), SHAPE, seed)
    random = np.random.default_rng(seed)
    for rows in sent.rows:
        for row in rows:
            row[random.integers(0, 640, 2)] = random.choice([np.inf, -np.inf, np.nan], 2)
    main = partial(exchange_by_recipe, sent=sent, layout=EM)
    check_recipe(sent, EM, make_cluster(2, seed, nodes=nodes).run(main))


@pytest.mark.sim_only
@LAYOUTS
def test_teams_do_not_show_in_quantized_rows(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    sent = make_sent(Quantized(1664), Shape(num_ranks=4, num_topk=4, max_tokens=3), seed)
    main = partial(exchange_by_recipe, sent=sent, layout=layout)
    of_one, of_two = (make_cluster(4, seed, nodes=nodes).run(main) for nodes in (1, 2))
    for one, other in zip(of_one, of_two, strict=True):
        for name in one:
            assert_same_bits(other[name], one[name], name)


# A chunk has eleven groups.
@LAYOUTS
@NODES
@pytest.mark.parametrize("hidden", [128, 1408, 1664, 7168])
def test_combine_with_quantized_rows(
    make_cluster: Any, hidden: int, layout: ep.Layout, nodes: int, seed: int
) -> None:
    problem = make_problem(replace(SHAPE, hidden=hidden, max_tokens=4), seed)
    main = partial(combine_quantized, problem=problem, layout=layout, halves=hidden == 1664)
    check_combined(problem, layout, make_cluster(2, seed, nodes=nodes).run(main))


@pytest.mark.sim_only
@LAYOUTS
def test_teams_do_not_show_in_sums_of_quantized_rows(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=6, num_local_experts=5, hidden=384), seed)
    main = partial(combine_quantized, problem=problem, layout=layout)
    of_one, of_two = (make_cluster(4, seed, nodes=nodes).run(main) for nodes in (1, 2))
    check_combined(problem, layout, of_one)
    for one, other in zip(of_one, of_two, strict=True):
        assert_same_bits(other["combined"], one["combined"], "combined")

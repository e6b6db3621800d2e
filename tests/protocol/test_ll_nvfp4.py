# SPDX-License-Identifier: Apache-2.0
"""Combine with rows that travel as NVFP4: sums within the stated error, the same bits in all teams."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import NODES
from ll import EM, RM, Shape, assert_same_bits, make_problem
from ll_nvfp4 import Returned, check_combined, combine_nvfp4, make_returned, with_their_scales

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
SHAPE = Shape(num_topk=3, num_local_experts=3, max_tokens=4)


def make(shape: Shape, layout: ep.Layout, seed: int) -> Returned:
    return make_returned(make_problem(shape, seed), layout, seed)


def run(make_cluster: Any, returned: Returned, seed: int, nodes: int = 1, **options: Any) -> list[Any]:
    """What every rank has combined, compared with what it must be."""
    main = partial(combine_nvfp4, returned=returned, **options)
    results: list[Any] = make_cluster(returned.problem.num_ranks, seed, nodes=nodes).run(main)
    check_combined(returned, results)
    return results


# A chunk has 864 elements.
@LAYOUTS
@NODES
@pytest.mark.parametrize("hidden", [32, 864, 896, 2112, 7168])
def test_sums(make_cluster: Any, hidden: int, layout: ep.Layout, nodes: int, seed: int) -> None:
    shape = replace(SHAPE, hidden=hidden, max_tokens=2 if hidden == 7168 else 4)
    run(make_cluster, make(shape, layout, seed), seed, nodes, halves=hidden == 896)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_ranks=10, num_local_experts=1, num_topk=10, hidden=96, max_tokens=2, no_route=0),
        Shape(num_ranks=1, num_local_experts=48, num_topk=40, hidden=96, max_tokens=3),
        Shape(num_ranks=2, num_local_experts=2, num_topk=4, hidden=96, repeats=True),
    ],
    ids=["many-ranks", "many-experts", "repeated-experts"],
)
@LAYOUTS
def test_many_rows_of_a_token(make_cluster: Any, shape: Shape, layout: ep.Layout, seed: int) -> None:
    run(make_cluster, make(shape, layout, seed), seed)


@pytest.mark.sim_only
@LAYOUTS
def test_teams_do_not_show(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    returned = make(Shape(num_ranks=4, num_topk=6, num_local_experts=5, hidden=960), layout, seed)
    of_one, of_two = (run(make_cluster, returned, seed, nodes) for nodes in (1, 2))
    for one, other in zip(of_one, of_two, strict=True):
        assert_same_bits(other, one, "combined")


@LAYOUTS
def test_in_a_group_with_masks(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    returned = make(replace(SHAPE, hidden=928), layout, seed)
    plain, masked = (run(make_cluster, returned, seed, enable_mask=mask) for mask in (False, True))
    for one, other in zip(plain, masked, strict=True):
        assert_same_bits(other, one, "combined")


def test_weights_of_either_sign(make_cluster: Any, seed: int) -> None:
    problem = make_problem(replace(SHAPE, hidden=64), seed)
    random = np.random.default_rng(seed)
    weights = [
        (of * random.choice([-1, 0, 1, 1e-6], of.shape)).astype(np.float32) for of in problem.topk_weights
    ]
    run(make_cluster, make_returned(replace(problem, topk_weights=weights), EM, seed), seed)


@LAYOUTS
@NODES
def test_rows_of_every_size(make_cluster: Any, nodes: int, layout: ep.Layout, seed: int) -> None:
    """Zeros, whose global scale is 0; so small that it is infinite; close to the largest number."""
    returned = make(replace(SHAPE, hidden=64, num_topk=1), layout, seed)
    random = np.random.default_rng(seed)
    for rows in returned.rows:
        sizes = random.choice([0, 1e-38, 1e-33, 1e-20, 1, 1e30, 1e36], rows.shape[:-1])
        rows[...] = (rows.astype(np.float64) * sizes[..., None]).astype(rows.dtype)
    run(make_cluster, with_their_scales(returned), seed, nodes)


@LAYOUTS
def test_elements_that_are_not_finite(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    """Their groups come home as NaN, all others as ever: the global scale is that of the other elements."""
    returned = make(replace(SHAPE, hidden=64), layout, seed)
    random = np.random.default_rng(seed)
    for rows in returned.rows:
        for row in rows.reshape(-1, 64):
            row[random.integers(0, 64)] = random.choice([np.inf, -np.inf, np.nan])
    run(make_cluster, returned, seed)


@LAYOUTS
def test_what_is_larger_than_the_global_scale_says(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    """It becomes the largest magnitude that there is."""
    returned = make(replace(SHAPE, hidden=64, num_topk=1, no_route=0), layout, seed)
    limit = 2.0**-7
    for rows, scales in zip(returned.rows, returned.scales, strict=True):
        rows[~np.isnan(rows)] = 1
        scales[~np.isnan(scales)] = 2688 / limit
    main = partial(combine_nvfp4, returned=returned)
    for rank, found in enumerate(make_cluster(2, seed).run(main)):
        weights = returned.problem.topk_weights[rank] if layout is EM else np.ones((len(found), 1))
        wanted = limit * weights.astype(np.float64)
        assert (np.abs(found.astype(np.float64) - wanted) <= wanted / 250).all()

# SPDX-License-Identifier: Apache-2.0
"""Dispatch and combine deliver what the oracle says, to the bit, for any shape, type and routing."""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import BF16, EM, FP16, FP32, RM, Shape, assert_same_bits, check, exchange, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])


@LAYOUTS
@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_ranks(make_cluster: Any, layout: ep.Layout, num_ranks: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=num_ranks, num_topk=2), seed)
    results = make_cluster(num_ranks, seed).run(exchange, problem, layout)
    check(problem, layout, results)


@LAYOUTS
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("idx_dtype", [np.int32, np.int64])
def test_types(make_cluster: Any, layout: ep.Layout, dtype: Any, idx_dtype: type, seed: int) -> None:
    problem = make_problem(Shape(dtype=dtype, idx_dtype=idx_dtype, num_topk=4), seed)
    check(problem, layout, make_cluster(2, seed).run(exchange, problem, layout))


@LAYOUTS
@pytest.mark.parametrize("num_topk", [1, 4, 8, 9, 16, 22, 64])
def test_topk(make_cluster: Any, layout: ep.Layout, num_topk: int, seed: int) -> None:
    shape = Shape(num_local_experts=-(-num_topk // 2) + 1, num_topk=num_topk, max_tokens=5)
    problem = make_problem(shape, seed)
    check(problem, layout, make_cluster(2, seed).run(exchange, problem, layout))


@LAYOUTS
@pytest.mark.parametrize("hidden", [8, 24, 40, 120, 1024, 2048, 2880, 7168, 8192])
def test_hidden(make_cluster: Any, layout: ep.Layout, hidden: int) -> None:
    problem = make_problem(Shape(hidden=hidden, tokens=(3, 2), max_tokens=4), seed=hidden)
    check(problem, layout, make_cluster(2).run(exchange, problem, layout))


@LAYOUTS
@pytest.mark.parametrize("num_local_experts", [1, 3, 7, 64, 257])
def test_any_number_of_experts(make_cluster: Any, layout: ep.Layout, num_local_experts: int) -> None:
    problem = make_problem(Shape(num_local_experts=num_local_experts), seed=num_local_experts)
    check(problem, layout, make_cluster(2).run(exchange, problem, layout))


def test_experts_are_counted_in_several_passes(make_cluster: Any, seed: int) -> None:
    """The tokens of so many experts do not fit in a block's shared memory at a time."""
    shape = Shape(num_local_experts=4099, num_topk=7, hidden=8, max_tokens=33, repeats=True)
    problem = make_problem(shape, seed)
    for routes in problem.topk_idx:
        routes[:, :4] = routes[:, :4] % 8 + 4092  # around the end of the first pass
    check(problem, EM, make_cluster(2, seed).run(exchange, problem, EM))


@LAYOUTS
@pytest.mark.parametrize("tokens", [(0, 0), (0, 5), (8, 0), (1, 8)], ids=str)
def test_token_counts_differ_between_ranks(
    make_cluster: Any, layout: ep.Layout, tokens: Any, seed: int
) -> None:
    problem = make_problem(Shape(tokens=tokens), seed)
    check(problem, layout, make_cluster(2, seed).run(exchange, problem, layout))


@LAYOUTS
def test_tokens_without_routes_get_zeros(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(no_route=1.0, tokens=(4, 3)), seed)
    results = make_cluster(2, seed).run(exchange, problem, layout)
    check(problem, layout, results)
    assert not any(result["combined"].astype(np.float32).any() for result in results)


@LAYOUTS
def test_an_expert_named_twice_gets_the_token_once(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_local_experts=3, num_topk=6, repeats=True, tokens=(6, 6)), seed)
    check(problem, layout, make_cluster(2, seed).run(exchange, problem, layout))


@LAYOUTS
def test_all_tokens_to_one_expert(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=1, tokens=(8, 8, 8, 8)), seed)
    for routes in problem.topk_idx:
        routes[...] = 3
    check(problem, layout, make_cluster(4, seed).run(exchange, problem, layout))


def test_global_expert_ids(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_topk=3), seed)
    results = make_cluster(2, seed).run(lambda rank: exchange(rank, problem, RM, global_ids=True))
    check(problem, RM, results, global_ids=True)


def test_rank_major_rows_go_straight_into_windows(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    results = make_cluster(4, seed).run(lambda rank: exchange(rank, problem, RM, windows=True))
    check(problem, RM, results)


@LAYOUTS
def test_same_bits_in_every_run(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=4), seed=0)
    first = make_cluster(4, seed=1).run(exchange, problem, layout)
    again = make_cluster(4, seed=1000 + seed).run(exchange, problem, layout)
    for rank, (one, other) in enumerate(zip(first, again, strict=True)):
        for name in one:
            assert_same_bits(other[name], one[name], f"rank {rank}: {name}")


@pytest.mark.sim_only
def test_the_same_seed_is_the_same_run(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)
    digests = []
    for _ in range(2):
        cluster = make_cluster(4, seed)
        cluster.run(exchange, problem, EM)
        digests.append(cluster.sim.schedule_hash)
    assert digests[0] == digests[1]


@LAYOUTS
@pytest.mark.sim_only
def test_32_ranks(make_cluster: Any, layout: ep.Layout) -> None:
    problem = make_problem(
        Shape(num_ranks=32, num_local_experts=1, num_topk=4, hidden=16, max_tokens=2), seed=1
    )
    check(problem, layout, make_cluster(32, sms=1).run(exchange, problem, layout))

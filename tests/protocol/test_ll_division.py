# SPDX-License-Identifier: Apache-2.0
"""How the work is divided among blocks, warps and accesses does not show in what they deliver."""

from __future__ import annotations

from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ll import EM, RM, Shape, check, exchange, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])


@LAYOUTS
@pytest.mark.parametrize("num_sms", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_blocks(
    make_cluster: Any, layout: ep.Layout, num_ranks: int, num_sms: int, seed: int
) -> None:
    """With three for each rank, those that send routes push nothing."""
    tokens = (40, 33, 36)[:num_ranks]
    shape = Shape(
        num_ranks=num_ranks, num_topk=3, num_local_experts=3, hidden=640, max_tokens=40, tokens=tokens
    )
    problem = make_problem(shape, seed)
    main = partial(exchange, problem=problem, layout=layout, max_num_sms=num_sms)
    check(problem, layout, make_cluster(num_ranks, seed, sms=16).run(main))


@LAYOUTS
@pytest.mark.parametrize("nodes", [1, 2])
def test_ranks_may_have_sms_as_they_like(make_cluster: Any, layout: ep.Layout, nodes: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    cluster = make_cluster(4, seed, nodes=nodes)
    results = cluster.run(lambda rank: exchange(rank, problem, layout, max_num_sms=1 + rank.rank))
    check(problem, layout, results)


@LAYOUTS
@pytest.mark.parametrize("threads", [64, 96])
@pytest.mark.parametrize("num_sms", [1, 4])
@pytest.mark.sim_only
def test_blocks_of_few_warps(
    make_cluster: Any, layout: ep.Layout, threads: int, num_sms: int, seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=3, num_topk=3, hidden=640, max_tokens=12, repeats=True), seed)
    main = partial(exchange, problem=problem, layout=layout, max_num_sms=num_sms)
    check(problem, layout, make_cluster(3, seed, threads_per_block=threads).run(main))


@LAYOUTS
@pytest.mark.parametrize("hidden", [1488, 2880, 7168])
@pytest.mark.parametrize("num_tokens", [3, 5, 8])
def test_few_blocks_take_chunks_of_a_row_together(
    make_cluster: Any, layout: ep.Layout, hidden: int, num_tokens: int, seed: int
) -> None:
    """The second rank has fewer tokens, and so takes fewer chunks at a time."""
    shape = Shape(num_local_experts=5, num_topk=5, hidden=hidden, max_tokens=8, tokens=(num_tokens, 2))
    problem = make_problem(shape, seed)
    main = partial(exchange, problem=problem, layout=layout, max_num_sms=1)
    check(problem, layout, make_cluster(2, seed).run(main))


@LAYOUTS
@pytest.mark.parametrize("num_ranks", [5, 8])
def test_a_token_comes_back_from_every_rank(
    make_cluster: Any, layout: ep.Layout, num_ranks: int, seed: int
) -> None:
    """More rows are added up than are looked at together."""
    tokens = tuple(range(1, 1 + num_ranks))
    shape = Shape(num_ranks=num_ranks, num_local_experts=3, num_topk=num_ranks, max_tokens=8, tokens=tokens)
    problem = make_problem(shape, seed)
    random = np.random.default_rng(seed)
    for routes in problem.topk_idx:
        for row in routes:
            row[:] = 3 * random.permutation(num_ranks) + random.integers(0, 3, num_ranks)
    check(problem, layout, make_cluster(num_ranks, seed).run(exchange, problem, layout))

# SPDX-License-Identifier: Apache-2.0
"""Top-k tables of any width and length: each place is one bit of what the kernels know, and rows of the table
straddle their words.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from ll import EM, RM, Shape, check, exchange, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])


@LAYOUTS
@pytest.mark.parametrize("repeats", [False, True], ids=["distinct", "repeats"])
@pytest.mark.parametrize("tokens", [(31, 33), (32, 1), (65, 0)], ids=str)
@pytest.mark.parametrize("num_topk", [3, 9, 22, 31, 33, 43, 63, 64])
def test_rows_of_the_table_straddle_words(
    make_cluster: Any, layout: ep.Layout, num_topk: int, tokens: tuple[int, ...], repeats: bool
) -> None:
    shape = Shape(
        num_local_experts=-(-num_topk // 2) + 1,
        num_topk=num_topk,
        hidden=8,
        max_tokens=65,
        tokens=tokens,
        repeats=repeats,
    )
    problem = make_problem(shape, seed=num_topk)
    check(problem, layout, make_cluster(2, num_topk).run(exchange, problem, layout))


@pytest.mark.parametrize("num_sms", [1, 4])
@pytest.mark.parametrize("num_topk", [7, 33])
def test_repeated_experts_in_several_passes(
    make_cluster: Any, num_topk: int, num_sms: int, seed: int
) -> None:
    """An expert is repeated in this pass, in another one, in both or in none."""
    shape = Shape(
        num_local_experts=4099, num_topk=num_topk, hidden=8, max_tokens=33, tokens=(33, 32), repeats=True
    )
    problem = make_problem(shape, seed)
    for rank, routes in enumerate(problem.topk_idx):
        routes[:11, 1:4] = routes[:11, :1]
        routes[11:22] = routes[11:22] % 8 + 4092 * rank
    main = partial(exchange, problem=problem, layout=EM, max_num_sms=num_sms)
    check(problem, EM, make_cluster(2, seed).run(main))


@LAYOUTS
@pytest.mark.parametrize("tokens", [(0, 5, 0, 3), (0, 0, 0, 7), (6, 0, 7, 0)], ids=str)
@pytest.mark.parametrize("num_sms", [1, 4])
def test_some_ranks_have_no_tokens(
    make_cluster: Any, layout: ep.Layout, tokens: tuple[int, ...], num_sms: int, seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3, tokens=tokens), seed)
    main = partial(exchange, problem=problem, layout=layout, max_num_sms=num_sms)
    check(problem, layout, make_cluster(4, seed).run(main))

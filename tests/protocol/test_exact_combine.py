# SPDX-License-Identifier: Apache-2.0
"""Groups with ``exact_combine``: sums are those of a plain loop over the top-k, to the bit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ht_oracle
import nccl_ep as ep
import numpy as np
import oracle
import pytest
from exact import check_high_throughput, check_low_latency, combine_high_throughput, combine_low_latency
from ht import FLAT, Mode, budget_for
from ll import EM, FP16, FP32, RM, Shape, group_config, make_problem

# Fewer places than ranks and more; rows of one chunk and of two; more places than a warp has lanes.
LL_SHAPES = [
    Shape(num_ranks=3, num_topk=2, max_tokens=5),
    Shape(num_topk=5, num_local_experts=4, hidden=1600, max_tokens=4, idx_dtype=np.int32),
    Shape(num_topk=6, num_local_experts=3, max_tokens=6, dtype=FP32, repeats=True),
    Shape(num_topk=40, num_local_experts=24, hidden=16, max_tokens=3, dtype=FP16),
]
NODES = [(4, 2), (4, 4), (6, 3)]  # ranks and their LSA teams
HT_MODES = [
    Mode(EM),
    Mode(EM, windows=True, alignment=4),
    Mode(EM, backward=True),
    Mode(EM, drop=True, alignment=2),
]


@pytest.mark.parametrize("shape", LL_SHAPES, ids=str)
def test_low_latency(make_cluster: Any, shape: Shape, seed: int) -> None:
    """Steps follow each other without the host, and slots get rows from other ranks each time."""
    problems = [make_problem(shape, seed + i) for i in range(3)]
    results = make_cluster(shape.num_ranks, seed).run(partial(combine_low_latency, problems=problems))
    check_low_latency(problems, results)


@pytest.mark.parametrize(("num_ranks", "nodes"), NODES)
@pytest.mark.parametrize("shape", LL_SHAPES, ids=str)
def test_low_latency_across_teams(
    make_cluster: Any, shape: Shape, num_ranks: int, nodes: int, seed: int
) -> None:
    problems = [make_problem(replace(shape, num_ranks=num_ranks), seed + i) for i in range(3)]
    cluster = make_cluster(num_ranks, seed, nodes=nodes)
    main = partial(combine_low_latency, problems=problems, overlaps=True)
    check_low_latency(problems, cluster.run(main))


@pytest.mark.parametrize("nodes", [1, 2])
def test_send_now_receive_later(make_cluster: Any, nodes: int, seed: int) -> None:
    problems = [make_problem(Shape(num_topk=3, max_tokens=4), seed)]
    main = partial(combine_low_latency, problems=problems, halves=True)
    check_low_latency(problems, make_cluster(2, seed, nodes=nodes).run(main))


@pytest.mark.parametrize("mode", HT_MODES, ids=str)
def test_high_throughput(make_cluster: Any, mode: Mode, seed: int) -> None:
    shape = Shape(num_ranks=4, num_topk=5, num_local_experts=4, repeats=mode.windows, max_tokens=6)
    problems = [make_problem(shape, seed + i) for i in range(2)]
    if mode.drop:
        mode = Mode(EM, budget=problems[0].max_tokens, drop=True, alignment=mode.alignment)
    results = make_cluster(4, seed).run(partial(combine_high_throughput, problems=problems, mode=mode))
    check_high_throughput(problems, mode, results)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_topk=3, hidden=1600, max_tokens=4, dtype=FP32),
        Shape(num_topk=40, num_local_experts=24, hidden=16, max_tokens=3, dtype=FP16),
    ],
    ids=str,
)
def test_other_rows_of_high_throughput(make_cluster: Any, shape: Shape, seed: int) -> None:
    problems, mode = [make_problem(shape, seed)], Mode(EM)
    mode = Mode(EM, budget=budget_for(problems[0], mode))
    results = make_cluster(2, seed).run(partial(combine_high_throughput, problems=problems, mode=mode))
    check_high_throughput(problems, mode, results)


def test_exact_sums_are_others_than_those_by_rank() -> None:
    """Or the tests above would say nothing."""
    problem = make_problem(Shape(num_topk=6, num_local_experts=4, no_route=0, tokens=(8, 8)), seed=1)
    rows = [
        np.random.default_rng(rank)
        .standard_normal((problem.num_local_experts, 16, problem.hidden))
        .astype(problem.dtype)
        for rank in range(2)
    ]
    by_rank = oracle.combine_expert_major(problem, 0, rows)
    assert oracle.combine_exact(problem, 0, rows).tobytes() != by_rank.tobytes()
    slots = [zones.reshape(-1, problem.hidden) for zones in rows]
    by_rank = ht_oracle.combine_expert_major(problem, 0, slots)
    assert ht_oracle.combine_exact(problem, 0, slots).tobytes() != by_rank.tobytes()


@pytest.mark.parametrize(
    ("algorithm", "layout"), [(ep.Algorithm.LOW_LATENCY, RM), (ep.Algorithm.HIGH_THROUGHPUT, FLAT)]
)
def test_layouts_in_which_the_caller_adds_up_are_refused(
    make_cluster: Any, algorithm: ep.Algorithm, layout: ep.Layout
) -> None:
    problem = make_problem(Shape(num_ranks=1, num_local_experts=4), seed=1)
    config = group_config(problem, algorithm=algorithm, num_topk=2, exact_combine=True)
    query = ep.CapabilityQuery(ep.Operation.COMBINE, hidden=problem.hidden)

    def main(rank: Any) -> tuple[str, ep.Capabilities]:
        with ep.Group(rank.comm, config) as group:
            with pytest.raises(ep.InvalidUsage) as failure:
                group.init_handle(layout, 2)
            assert group.capabilities(EM, query).result == 0
            return str(failure.value), group.capabilities(layout, query)

    said, answer = make_cluster(1).run(main)[0]
    expected = "expected NCCL_EP_LAYOUT_EXPERT_MAJOR (1) in a group with config.exact_combine"
    assert expected in said
    assert expected in answer.inputs_tokens.reason


def test_rows_are_not_quantized(make_cluster: Any) -> None:
    problem = make_problem(Shape(num_ranks=1, hidden=128), seed=1)
    config = group_config(problem, num_topk=2, exact_combine=True)
    query = ep.CapabilityQuery(
        ep.Operation.COMBINE, hidden=128, quantization_recipe=ep.CombineQuantizationRecipe.FP8
    )

    def main(rank: Any) -> ep.Capabilities:
        with ep.Group(rank.comm, config) as group:
            return group.capabilities(EM, query)

    answer = make_cluster(1).run(main)[0]
    assert "config.quant_recipe: is 2, expected NCCL_EP_COMB_QUANT_NONE" in answer.inputs_tokens.reason

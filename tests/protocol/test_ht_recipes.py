# SPDX-License-Identifier: Apache-2.0
"""High-Throughput dispatch with scales, the caller's or its own: they arrive with their rows, to the bit.
And combine whose rows travel as FP8: sums are within the stated error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, budget_for, group_config, make_problem, reroute
from ht import check as check_plain
from ht_recipes import (
    Rows,
    ScaledExchange,
    check,
    check_combined,
    combine_quantized,
    config_for,
    exchange,
    quantized_rows,
)
from nccl_ep import DataType

MODES = pytest.mark.parametrize(
    "mode",
    [
        Mode(FLAT),
        Mode(FLAT, windows=True),
        Mode(FLAT, backward=True),
        Mode(EM, alignment=4),
        Mode(EM, windows=True, alignment=4),
        Mode(EM, windows=True, backward=True),
    ],
    ids=str,
)
IN_BULK = Rows(512, 4)
IN_WORDS = Rows(64, 3, DataType.FLOAT32, DataType.FLOAT32)
IN_BYTES = Rows(48, 35, DataType.FLOAT4X2, DataType.UINT8)
QUANTIZED = quantized_rows(384)
ROWS = pytest.mark.parametrize("rows", [IN_BULK, IN_WORDS, IN_BYTES, QUANTIZED], ids=str)
FEW_ROWS = pytest.mark.parametrize("rows", [IN_BULK, IN_BYTES, QUANTIZED], ids=str)
SHAPE = Shape(num_ranks=3, num_topk=3, num_local_experts=3)


@MODES
@ROWS
def test_an_exchange(make_cluster: Any, mode: Mode, rows: Rows, seed: int) -> None:
    problem = make_problem(SHAPE, seed)
    check(problem, mode, rows, make_cluster(3, seed).run(exchange, problem, mode, rows))


@pytest.mark.parametrize(
    "rows",
    [
        Rows(16, 1, DataType.BFLOAT16, DataType.FLOAT16),
        Rows(32, 9, DataType.FLOAT16, DataType.BFLOAT16),
        Rows(16, 2, DataType.FLOAT8E5M2, DataType.FLOAT8E4M3),
        Rows(16, 48, DataType.FLOAT4X2, DataType.FLOAT8E5M2),
        quantized_rows(128),
        quantized_rows(1024, rounds=True),
    ],
    ids=str,
)
def test_types(make_cluster: Any, rows: Rows, seed: int) -> None:
    problem = make_problem(Shape(), seed)
    mode = Mode(EM, windows=True)
    check(problem, mode, rows, make_cluster(2, seed).run(exchange, problem, mode, rows))


@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM, windows=True)], ids=str)
@pytest.mark.parametrize(
    "rows", [Rows(16384, 128), Rows(7184, 2), Rows(16, 2000), quantized_rows(8320)], ids=str
)
def test_wide_rows(make_cluster: Any, mode: Mode, rows: Rows) -> None:
    """Rows in several pieces, and scales that are wider than rows and do not fit into a stage."""
    problem = make_problem(Shape(tokens=(3, 2), max_tokens=4), seed=rows.hidden)
    check(problem, mode, rows, make_cluster(2).run(exchange, problem, mode, rows))


@FEW_ROWS
@pytest.mark.parametrize(
    "mode",
    [
        Mode(FLAT, drop=True),
        Mode(FLAT, windows=True, drop=True),
        Mode(EM, windows=True, alignment=2, drop=True),
    ],
    ids=str,
)
def test_what_does_not_fit_is_dropped(make_cluster: Any, mode: Mode, rows: Rows, seed: int) -> None:
    problem = make_problem(replace(SHAPE, tokens=(8, 5, 7), no_route=0), seed)
    reroute(problem, "zipf", seed)
    mode = replace(mode, budget=problem.max_tokens)
    check(problem, mode, rows, make_cluster(3, seed).run(exchange, problem, mode, rows))


@FEW_ROWS
@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM, windows=True)], ids=str)
@pytest.mark.parametrize("push_blocks", [1, 2])
def test_every_split_of_the_blocks(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch, mode: Mode, rows: Rows, push_blocks: int, seed: int
) -> None:
    """Own rows are copied by those who receive, or pushed like others."""
    monkeypatch.setenv("NCCL_EP_HT_TUNING", f"push_blocks={push_blocks}")
    problem = make_problem(SHAPE, seed)
    results = make_cluster(3, seed).run(lambda rank: exchange(rank, problem, mode, rows, max_num_sms=2))
    check(problem, mode, rows, results)


@pytest.mark.sim_only
@FEW_ROWS
@pytest.mark.parametrize(
    "mode",
    [Mode(FLAT), Mode(FLAT, windows=True, backward=True), Mode(EM, windows=True, alignment=4)],
    ids=str,
)
def test_between_teams(make_cluster: Any, mode: Mode, rows: Rows, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3, num_local_experts=3), seed)
    mode = replace(mode, team_size=2)
    check(problem, mode, rows, make_cluster(4, seed, nodes=2).run(exchange, problem, mode, rows))


@FEW_ROWS
@pytest.mark.parametrize("tokens", [(0, 5), (8, 0)], ids=str)
def test_ranks_without_tokens(make_cluster: Any, rows: Rows, tokens: Any, seed: int) -> None:
    problem = make_problem(Shape(tokens=tokens, num_topk=1), seed)
    reroute(problem, "nobody to rank 0", seed)
    mode = Mode(FLAT)
    check(problem, mode, rows, make_cluster(2, seed).run(exchange, problem, mode, rows))


@FEW_ROWS
@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_zero_copy_on(make_cluster: Any, layout: ep.Layout, rows: Rows, seed: int) -> None:
    problem = make_problem(Shape(), seed)
    mode = Mode(layout, windows=True)
    on = ep.ZeroCopyMode.ON
    results = make_cluster(2, seed).run(lambda rank: exchange(rank, problem, mode, rows, zero_copy=on))
    check(problem, mode, rows, results)


@pytest.mark.parametrize("mode", [Mode(FLAT, budget=32), Mode(EM, windows=True, budget=64)], ids=str)
def test_recipes_follow_each_other_without_the_host(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Each overwrites what another one has left in windows and stages, and one of them is without scales."""
    all_rows = [IN_BYTES, QUANTIZED, None, IN_BULK]
    problems = [make_problem(SHAPE, seed + i) for i in range(len(all_rows))]

    def main(rank: Any) -> Any:
        config = config_for(problems[0], mode, [rows for rows in all_rows if rows])
        with ep.Group(rank.comm, config) as group:
            pairs = [
                ScaledExchange(rank, problem, mode, rows) if rows else Exchange(rank, problem, mode)
                for problem, rows in zip(problems, all_rows, strict=True)
            ]
            handles = [mine.make_handle(group) for mine in pairs]
            for _ in range(2):
                for mine, handle in zip(pairs, handles, strict=True):
                    mine.run(handle)
            return [mine.results() for mine in pairs]

    results = make_cluster(3, seed).run(main)
    for i, (problem, rows) in enumerate(zip(problems, all_rows, strict=True)):
        found = [result[i] for result in results]
        if rows:
            check(problem, mode, rows, found)
        else:
            check_plain(problem, mode, found)


@pytest.mark.parametrize("rows", [IN_BULK, QUANTIZED], ids=str)
def test_a_captured_step(make_cluster: Any, rows: Rows, seed: int) -> None:
    problem = make_problem(SHAPE, seed)
    mode = Mode(EM, alignment=4)
    mode = replace(mode, budget=budget_for(problem, mode))

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, config_for(problem, mode, [rows])) as group:
            mine = ScaledExchange(rank, problem, mode, rows)
            handle = mine.make_handle(group)
            rank.synchronize()
            with rank.capture() as graph:
                mine.run(handle, graph.stream)
            for _ in range(2):
                graph.launch()
            rank.synchronize()
            return mine.results()

    check(problem, mode, rows, make_cluster(3, seed).run(main))


# Blocks that are full or not, groups in both halves of a warp, rows of several parts.
@pytest.mark.parametrize("hidden", [128, 640, 4352])
@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM, windows=True, alignment=4)], ids=str)
def test_combine_with_quantized_rows(make_cluster: Any, mode: Mode, hidden: int, seed: int) -> None:
    shape = Shape(num_topk=5, num_local_experts=4, hidden=hidden, max_tokens=5, repeats=True)
    problems = [make_problem(shape, seed + i) for i in range(2)]
    results = make_cluster(2, seed).run(lambda rank: combine_quantized(rank, problems, mode))
    check_combined(problems, mode, results)


@pytest.mark.parametrize("num_topk", [1, 33, 64])
def test_combine_quantizes_sums_of_many_slots(make_cluster: Any, num_topk: int, seed: int) -> None:
    """Of more than a warp has under way, or of one each."""
    shape = Shape(num_topk=num_topk, num_local_experts=num_topk // 2 + 3, hidden=1152, max_tokens=4)
    problem, mode = make_problem(shape, seed), Mode(EM)
    results = make_cluster(2, seed).run(lambda rank: combine_quantized(rank, [problem], mode))
    check_combined([problem], mode, results)


@pytest.mark.parametrize(
    "tuning",
    ["push_blocks=1", "push_blocks=1,push_warps=1,piece_bytes=2048", "push_blocks=2,piece_bytes=99999"],
)
@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM, windows=True)], ids=str)
def test_combine_with_quantized_rows_by_every_split(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch, mode: Mode, tuning: str, seed: int
) -> None:
    """Some blocks push and the others receive, or all do both; rows leave in many pieces, or as they are."""
    monkeypatch.setenv("NCCL_EP_HT_TUNING", tuning)
    problem = make_problem(Shape(num_topk=5, num_local_experts=6, hidden=4224, max_tokens=5), seed)
    results = make_cluster(2, seed).run(lambda rank: combine_quantized(rank, [problem], mode, max_num_sms=2))
    check_combined([problem], mode, results)


@pytest.mark.sim_only
@pytest.mark.parametrize("hidden", [128, 640, 4352])
@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM, windows=True, alignment=4)], ids=str)
@pytest.mark.parametrize(("nodes", "gpus"), [(2, 2), (4, 1)], ids=["2x2", "4x1"])
def test_combine_with_quantized_rows_between_teams(
    make_cluster: Any, nodes: int, gpus: int, mode: Mode, hidden: int, seed: int
) -> None:
    """What crosses is quantized once more."""
    shape = Shape(num_ranks=nodes * gpus, num_topk=6, num_local_experts=3, hidden=hidden, max_tokens=5)
    problems = [make_problem(replace(shape, repeats=True), seed + i) for i in range(2)]
    mode = replace(mode, team_size=gpus)
    results = make_cluster(nodes * gpus, seed, nodes=nodes).run(
        lambda rank: combine_quantized(rank, problems, mode)
    )
    check_combined(problems, mode, results)


@pytest.mark.sim_only
@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_what_is_dropped_in_other_teams_adds_nothing(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    """Tokens of which a team has dropped everything come back as zeros."""
    shape = Shape(num_ranks=4, num_topk=3, num_local_experts=3, tokens=(8, 5, 7, 6), no_route=0, hidden=256)
    problem = make_problem(shape, seed)
    reroute(problem, "zipf", seed)
    mode = Mode(layout, budget=problem.max_tokens, drop=True, team_size=2)
    results = make_cluster(4, seed, nodes=2).run(lambda rank: combine_quantized(rank, [problem], mode))
    check_combined([problem], mode, results)


@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_what_is_dropped_adds_nothing(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(replace(SHAPE, tokens=(8, 5, 7), no_route=0, hidden=256), seed)
    mode = Mode(layout, budget=problem.max_tokens, drop=True)
    results = make_cluster(3, seed).run(lambda rank: combine_quantized(rank, [problem], mode, max_num_sms=1))
    check_combined([problem], mode, results)


@pytest.mark.sim_only
def test_combine_quantizes_forward_and_with_masks_inside_one_team(make_cluster: Any) -> None:
    problem, fp8 = make_problem(Shape(hidden=128), seed=1), ep.CombineQuantizationRecipe.FP8

    def main(rank: Any, **config: Any) -> list[str]:
        with ep.Group(rank.comm, group_config(problem, Mode(FLAT), **config)) as group:
            query = ep.CapabilityQuery(ep.Operation.COMBINE, hidden=128, quantization_recipe=fp8)
            answers = [group.capabilities(FLAT, replace(query, pass_direction=way)) for way in ep.PassDir]
            return [answer.inputs_tokens.reason for answer in answers]

    forward, backward = make_cluster(2).run(main)[0]
    assert "reads it where it is" in forward
    assert "config.pass_direction: is NCCL_EP_BWD_PASS, expected NCCL_EP_FWD_PASS" in backward
    across, _ = make_cluster(2, nodes=2).run(main)[0]
    masked, _ = make_cluster(2).run(lambda rank: main(rank, enable_mask=True))[0]
    for said in (across, masked):
        assert "reads it where it is" in said

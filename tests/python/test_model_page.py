# SPDX-License-Identifier: Apache-2.0
"""What docs/model.md says of the model's errors is so."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import nccl_ep as ep
import numpy as np
import numpy.typing as npt
import pytest
from nccl_ep.model import Case, Machine, Tokens, predict

from ep_bench.routing import Shape, make_routing

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = {
    "Low Latency": ep.Algorithm.LOW_LATENCY,
    "High Throughput": ep.Algorithm.HIGH_THROUGHPUT,
}
LAYOUTS = {
    "expert-major": ep.Layout.EXPERT_MAJOR,
    "rank-major": ep.Layout.RANK_MAJOR,
    "flat": ep.Layout.FLAT,
}
EXPERTS, TOPK = 256, 8
BF16_ROW, FP8_ROW = 7168 * 2, 7168 + 4 * 7168 // 128
MOST_OFF = 6.0
"""Per cent: no estimate may be further from what was measured."""

H800, H200 = Machine(nvlink_gbps=160), Machine()
PUBLISHED = {
    "DeepEP V1": (H800, 4096),
    "DeepEP V2": (H200, 8192),
    "UCCL-EP": (H200, 4096),
}
"""The links and the tokens of a rank of each source, in high throughput; in low latency tokens are 128."""


def rows_of(table: str) -> list[list[str]]:
    """The cells of a table of the page, without its head."""
    text = (ROOT / "docs/model.md").read_text()
    found = re.search(rf"<!-- model: {table}\b.*?-->\n(.*?)<!-- model: end -->", text, re.DOTALL)
    assert found, table
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def uniform(num_ranks: int, tokens: int) -> list[npt.NDArray[Any]]:
    """The routing that ep_bench draws."""
    shape = Shape(num_ranks, tokens, TOPK, EXPERTS)
    return [routing.topk_idx for routing in make_routing("uniform", shape, seed=1)]


@cache
def grouped(nodes: int) -> npt.NDArray[Any]:
    """Routes of some tokens, each on at most four nodes."""
    random = np.random.default_rng(1)
    chosen = random.random((32768, nodes)).argsort(axis=1).argsort(axis=1) < 4
    scores = random.random((len(chosen), EXPERTS)) + np.repeat(chosen, EXPERTS // nodes, axis=1)
    return np.asarray(scores.argsort(axis=1)[:, -TOPK:])


def check(row: list[str], estimate: float, most_off: float = 100.0) -> None:
    """The last three cells are a time, the estimate, and how far it is off."""
    time, shown, off = row[-3:]
    assert shown == f"{estimate:.1f}", row
    assert off == f"{100 * (estimate / float(time) - 1):+.1f}", row
    assert abs(float(off)) <= most_off, row


def measured_estimates(row: list[str]) -> dict[str, float]:
    """The model's of a case of the first table."""
    layout, _, without_windows = row[1].partition(", ")
    case = Case(
        ALGORITHMS[row[0]], LAYOUTS[layout], int(row[2]), BF16_ROW, EXPERTS, TOPK, windows=not without_windows
    )
    predictions = predict(case, H200, Tokens.of_routes(uniform(4, case.tokens), EXPERTS, team_size=4))
    return {prediction.operation: prediction.estimate_us for prediction in predictions}


def published_estimates(algorithm: str, source: str, num_gpus: int, operation: str) -> float:
    """The model's of a case of the other tables: eight GPUs a node, FP8 dispatch and bf16 combine."""
    machine, tokens = PUBLISHED[source]
    is_ll = algorithm == "Low Latency"
    case = Case(
        ALGORITHMS[algorithm],
        LAYOUTS["expert-major" if is_ll else "flat"],
        128 if is_ll else tokens,
        FP8_ROW if operation == "dispatch" else BF16_ROW,
        EXPERTS,
        TOPK,
    )
    if is_ll:
        where = Tokens.of_routes(uniform(num_gpus, 128), EXPERTS, team_size=8)
    else:
        where = Tokens.expected(grouped(num_gpus // 8), tokens, num_gpus, EXPERTS, team_size=8)
    predictions = predict(case, machine, where)
    return next(one.estimate_us for one in predictions if one.operation == operation)


def test_errors_against_what_was_measured() -> None:
    rows = rows_of("measured")
    assert len(rows) > 20
    for row in rows:
        check(row, measured_estimates(row)[row[3]], MOST_OFF)


def test_what_was_measured_is_near_what_the_readme_has() -> None:
    times = readme_times()
    rows = [row for row in rows_of("measured") if tuple(row[:4]) in times]
    assert len(rows) > 20
    for row in rows:
        assert times[tuple(row[:4])] == pytest.approx(float(row[4]), rel=0.05), row


def readme_times() -> dict[tuple[str, ...], float]:
    """By algorithm, layout, tokens and operation. In the README a competitor's are behind each."""
    readme = (ROOT / "README.md").read_text()
    measured = readme[readme.index("<!-- measured: begin") : readme.index("<!-- measured: end")]
    times = {}
    for line in measured.splitlines():
        layout, tokens, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")] + [""] * 2
        if not tokens.isdigit() or "SMs" in layout:
            continue
        algorithm = "Low Latency" if len(cells) == 6 + 2 else "High Throughput"
        operations = ["update", "dispatch", "combine", "step"][-(len(cells) // 2 - 1) :]
        for operation, time in zip(operations, cells[::2], strict=False):
            times[algorithm, layout.removesuffix(", zero copy"), tokens, operation] = float(time)
    return times


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_errors_against_what_others_have_published(algorithm: str) -> None:
    rows = rows_of(f"published, {algorithm}")
    assert len(rows) >= 10
    for row in rows:
        check(row, published_estimates(algorithm, row[0], int(row[1]), row[2]))

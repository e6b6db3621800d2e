# SPDX-License-Identifier: Apache-2.0
"""Scenarios for High-Throughput kernels with scales: chained calls into the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
from harness import TIMEOUT_NS
from ht import EM, FLAT, Mode
from ht_recipes import (
    Rows,
    ScaledExchange,
    check_combined,
    combine_quantized,
    config_for,
    expected,
    quantized_rows,
)
from ht_scenarios import copies, make_problems, simulated, with_budget
from ll import Shape, assert_same_bits

NUM_STEPS = 2
OUTPUTS = ("received", "received_scales")
INTO_SLOTS = Mode(EM, windows=True, alignment=4)
SHAPE = Shape(num_ranks=2, num_local_experts=3, num_topk=4, hidden=16, max_tokens=6, tokens=(6, 5))


def chained(seed: int, rows: Rows, mode: Mode) -> None:
    """Several dispatches in a row; raises if a rank received something else than it must."""
    problems = make_problems(seed, SHAPE)
    mode = with_budget(mode, problems)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, config_for(problems[0], mode, [rows], timeout_ns=TIMEOUT_NS)) as group:
            found = []
            for problem in problems:
                exchange = ScaledExchange(rank, problem, mode, rows)
                handle = exchange.make_handle(group)
                for _ in range(NUM_STEPS):
                    exchange.dispatch(handle)
                    found.append(copies(rank, exchange, *OUTPUTS))
            rank.synchronize()
            return found

    with simulated(SHAPE.num_ranks, seed) as cluster:
        results = list(zip(*cluster.run(main), strict=True))
    for i, found in enumerate(results):
        for rank, mine in enumerate(found):
            wanted = expected(problems[i // NUM_STEPS], rank, mode, rows)
            for name in OUTPUTS:
                assert_same_bits(mine[name], wanted[name], f"rank {rank}: {name}")


def combined(seed: int, layout: ep.Layout, hidden: int, **config: Any) -> None:
    """A dispatch and a combine whose rows travel as FP8."""
    problems, mode = make_problems(seed, replace(SHAPE, hidden=hidden)), Mode(layout)
    main = partial(combine_quantized, problems=problems, mode=mode, timeout_ns=TIMEOUT_NS, **config)
    with simulated(SHAPE.num_ranks, seed) as cluster:
        check_combined(problems, mode, cluster.run(main))


def between(seed: int) -> None:
    """The same between LSA teams of a rank each."""
    problems, mode = make_problems(seed, replace(SHAPE, hidden=384)), Mode(FLAT, team_size=1)
    main = partial(combine_quantized, problems=problems, mode=mode, timeout_ns=TIMEOUT_NS)
    with simulated(SHAPE.num_ranks, seed, nodes=2) as cluster:
        check_combined(problems, mode, cluster.run(main))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "between": between,
    "combined": partial(combined, layout=FLAT, hidden=384),
    "summed": partial(combined, layout=EM, hidden=2304, max_num_sms=1),
    "in-bulk": partial(chained, rows=Rows(64, 8), mode=INTO_SLOTS),
    "in-bytes": partial(
        chained, rows=Rows(32, 35, scale_dtype=ep.DataType.UINT8), mode=replace(INTO_SLOTS, windows=False)
    ),
    "quantized": partial(chained, rows=quantized_rows(1152), mode=INTO_SLOTS),
    "apart": partial(chained, rows=Rows(64, 8), mode=Mode(FLAT, windows=True, backward=True)),
    "apart-quantized": partial(chained, rows=quantized_rows(1152), mode=Mode(FLAT, windows=True)),
}

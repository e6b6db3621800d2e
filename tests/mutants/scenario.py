# SPDX-License-Identifier: Apache-2.0
"""Runs a Low-Latency scenario with the kernels of a library, and tells how each seed ended.

``python scenario.py KERNELS.so SCENARIO SEED ...`` prints a line of JSON a seed: seed, noticed, report. Calls
are chained without waiting for the host in between, since that would hide what reuses buffers too early.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "protocol", "litmus")]

import ll  # noqa: E402
import nccl_ep as ep  # noqa: E402
from clusters import SimCluster  # noqa: E402
from sim_runner import load_kernels  # noqa: E402

NUM_RANKS = 3
NUM_CALLS = 4
TIMEOUT_NS = 200_000_000  # of simulated time


def chained(seed: int, layout: ep.Layout, *, windows: bool = False, shape: ll.Shape | None = None) -> None:
    """Several dispatches and combines in a row; raises if a rank received something else than it must."""
    shape = shape or ll.Shape(num_ranks=NUM_RANKS, num_topk=3, max_tokens=6, tokens=(6, 3, 5))
    problems = [ll.make_problem(shape, seed * 100 + i) for i in range(NUM_CALLS)]

    def main(rank: Any) -> Any:
        config = ll.group_config(problems[0], timeout_ns=TIMEOUT_NS)
        with ep.Group(rank.comm, config) as group:
            exchanges = [ll.Exchange(rank, problem, layout, windows=windows) for problem in problems]
            for exchange in exchanges:
                exchange.run(exchange.make_handle(group))
            return [exchange.results() for exchange in exchanges]

    cluster = SimCluster(shape.num_ranks, seed)
    try:
        results = cluster.run(main)
    finally:
        cluster.close()
    for i, problem in enumerate(problems):
        ll.check(problem, layout, [result[i] for result in results])


SCENARIOS: dict[str, Callable[[int], None]] = {
    "expert-major": lambda seed: chained(seed, ll.EM),
    "rank-major": lambda seed: chained(seed, ll.RM),
    "zero-copy": lambda seed: chained(seed, ll.RM, windows=True),
}


def main(kernels: str, scenario: str, *seeds: str) -> None:
    """Runs the scenario with each seed."""
    load_kernels(Path(kernels))
    for seed in seeds:
        noticed, report = False, ""
        try:
            SCENARIOS[scenario](int(seed))
        except Exception as error:
            noticed = True
            report = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        print(json.dumps({"seed": int(seed), "noticed": noticed, "report": report}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""Runs a Low-Latency scenario with the kernels of a library, and tells how each seed ended.

``python scenario.py KERNELS.so SCENARIO SEED ...`` prints a line of JSON a seed: seed, noticed, report. Calls
are chained without waiting for the host in between, since that would hide what reuses buffers too early.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "protocol", "litmus")]

import ll  # noqa: E402
import nccl_ep as ep  # noqa: E402
from clusters import SimCluster  # noqa: E402
from sim_runner import load_kernels  # noqa: E402

NUM_CALLS = 4
TIMEOUT_NS = 200_000_000  # of simulated time
FEW = ll.Shape(num_ranks=3, num_topk=3, hidden=320, max_tokens=6, tokens=(6, 3, 5))
MANY = ll.Shape(num_ranks=3, num_topk=3, hidden=640, max_tokens=40, tokens=(40, 33, 36))


def chained(seed: int, layout: ep.Layout, shape: ll.Shape, **changes: Any) -> None:
    """Several dispatches and combines in a row; raises if a rank received something else than it must."""
    problems = make_problems(seed, shape)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0], timeout_ns=TIMEOUT_NS, **changes)) as group:
            exchanges = [ll.Exchange(rank, problem, layout) for problem in problems]
            for exchange in exchanges:
                exchange.run(exchange.make_handle(group))
            return [exchange.results() for exchange in exchanges]

    results = run_simulated(main, seed, shape)
    for i, problem in enumerate(problems):
        ll.check(problem, layout, [result[i] for result in results])


def idle_receiver(seed: int) -> None:
    """Only rank 0 has tokens, and combines again and again.

    Rank-major, so nothing tells the other ranks how far it is but its word that a bank is free.
    """
    problem = ll.make_problem(replace(FEW, tokens=(6, 0, 0)), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problem, timeout_ns=TIMEOUT_NS)) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM) for _ in range(2 * NUM_CALLS)]
            handle = exchanges[0].make_handle(group)
            exchanges[0].dispatch(handle)
            for exchange in exchanges:
                exchange.combine(handle)
            return [rank.read(exchange.combined) for exchange in exchanges]

    for rank, found in enumerate(run_simulated(main, seed, FEW)):
        for combined in found:
            wanted = ll.expected(problem, rank, ll.RM)["combined"]
            ll.assert_same_bits(combined, wanted, f"rank {rank}: combined")


def make_problems(seed: int, shape: ll.Shape) -> list[ll.Problem]:
    """A problem for each call."""
    return [ll.make_problem(shape, seed * 100 + i) for i in range(NUM_CALLS)]


def run_simulated(main: Callable[[Any], Any], seed: int, shape: ll.Shape) -> list[Any]:
    """Every rank's result."""
    cluster = SimCluster(shape.num_ranks, seed)
    try:
        return cluster.run(main)
    finally:
        cluster.close()


SCENARIOS: dict[str, Callable[[int], None]] = {
    "expert-major": lambda seed: chained(seed, ll.EM, FEW),
    "expert-major-many": lambda seed: chained(seed, ll.EM, MANY),
    "rank-major": lambda seed: chained(seed, ll.RM, FEW),
    "rank-major-many": lambda seed: chained(seed, ll.RM, MANY),
    "few-blocks": lambda seed: chained(seed, ll.EM, MANY, max_num_sms=1),
    "idle-receiver": idle_receiver,
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

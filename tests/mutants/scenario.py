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
from nccl_ep import sim  # noqa: E402
from nccl_ep.sim._ffi import check, ffi, library  # noqa: E402
from sim_runner import load_kernels  # noqa: E402

NUM_CALLS = 4
TIMEOUT_NS = 200_000_000  # of simulated time
FEW = ll.Shape(num_ranks=3, num_topk=3, hidden=320, max_tokens=6, tokens=(6, 3, 5))  # rows travel as units
MANY = ll.Shape(num_ranks=3, num_topk=3, max_tokens=40, tokens=(40, 33, 36))  # rows travel in chunks


def chained(seed: int, layout: ep.Layout, shape: ll.Shape) -> None:
    """Several dispatches and combines in a row; raises if a rank received something else than it must."""
    problems = make_problems(seed, shape)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0], timeout_ns=TIMEOUT_NS)) as group:
            exchanges = [ll.Exchange(rank, problem, layout) for problem in problems]
            for exchange in exchanges:
                exchange.run(exchange.make_handle(group))
            return [exchange.results() for exchange in exchanges]

    results = run_simulated(main, seed, shape)
    for i, problem in enumerate(problems):
        ll.check(problem, layout, [result[i] for result in results])


def one_way(seed: int, layout: ep.Layout) -> None:
    """Only rank 0 has tokens, and nothing is combined: no row comes back that would tell what is read."""
    problems = make_problems(seed, replace(MANY, tokens=(40, 0, 0)))

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0], timeout_ns=TIMEOUT_NS)) as group:
            exchanges = [ll.Exchange(rank, problem, layout) for problem in problems]
            for exchange in exchanges:
                exchange.dispatch(exchange.make_handle(group))
            return [exchange.results() for exchange in exchanges]

    check_dispatched(problems, layout, run_simulated(main, seed, MANY))


def into_one_window(seed: int, shape: ll.Shape) -> None:
    """Dispatches into one output window again and again.

    In between, the stream copies what has come out of it and clears it, as a caller's kernels would.
    """
    problems = make_problems(seed, shape)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0], timeout_ns=TIMEOUT_NS)) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM, windows=True) for problem in problems]
            output, window = exchanges[0].received, exchanges[0].window
            poison = rank.array(output)
            copies = [rank.array(output) for _ in exchanges]
            for exchange, copy in zip(exchanges, copies, strict=True):
                exchange.received, exchange.window = output, window
                exchange.dispatch(exchange.make_handle(group))
                copy_on_default_stream(rank.sim, copy, output)
                copy_on_default_stream(rank.sim, output, poison)
            return [{**e.results(), "received": c} for e, c in zip(exchanges, copies, strict=True)]

    check_dispatched(problems, ll.RM, run_simulated(main, seed, shape))


def check_dispatched(problems: list[ll.Problem], layout: ep.Layout, results: list[Any]) -> None:
    """Compares all that dispatch delivers."""
    for i, problem in enumerate(problems):
        for rank, found in enumerate(results):
            for name, wanted in ll.expected(problem, rank, layout).items():
                if name != "combined":
                    ll.assert_same_bits(found[i][name], wanted, f"call {i}, rank {rank}: {name}")


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


def copy_on_default_stream(rank: sim.Rank, target: ll.Array, source: ll.Array) -> None:
    """Has the GPU copy an array, behind the work that was put on its stream before."""
    pointers = [ffi.cast("void*", array.ctypes.data) for array in (target, source)]
    check(library().ncclEpSimMemcpyAsync(rank._c, rank.rank, *pointers, source.nbytes, ffi.NULL))


SCENARIOS: dict[str, Callable[[int], None]] = {
    "expert-major-units": lambda seed: chained(seed, ll.EM, FEW),
    "expert-major-chunks": lambda seed: chained(seed, ll.EM, MANY),
    "rank-major-units": lambda seed: chained(seed, ll.RM, FEW),
    "rank-major-chunks": lambda seed: chained(seed, ll.RM, MANY),
    "one-way": lambda seed: one_way(seed, ll.EM),
    "zero-copy": lambda seed: into_one_window(seed, FEW),
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

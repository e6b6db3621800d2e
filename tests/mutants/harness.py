# SPDX-License-Identifier: Apache-2.0
"""What the scenarios of both algorithms share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import nccl_ep as ep
from clusters import open_cluster
from graphs import CountedStep, check_counted
from oracle import Array, Problem

TIMEOUT_NS = 200_000_000  # of simulated time
STEP_LIMIT = 20_000_000  # ten times what the longest scenario of Low Latency takes


def simulated(num_ranks: int, seed: int, **options: Any) -> AbstractContextManager[Any]:
    """A cluster in which nothing goes on for ever."""
    return open_cluster("sim", num_ranks, seed, **{"step_limit": STEP_LIMIT, **options})


def check_counts(
    cluster: Any,
    problems: list[Problem],
    layout: ep.Layout,
    make_group: Callable[[Any, Problem], ep.Group],
    make_exchange: Callable[[Any, Problem], Any],
    expected: Callable[[Problem, int], dict[str, Array]],
) -> None:
    """Steps in tensors with room for the most tokens, whose number is read on the device."""

    def main(rank: Any) -> Any:
        found = []
        with make_group(rank, problems[0]) as group:
            step = CountedStep(rank, problems[0], partial(make_exchange, rank), seed=1)
            handle, stream = group.init_handle(layout, problems[0].num_topk), rank.stream()
            for problem in problems:
                step.prepare(problem)
                step.run(handle, stream)
                found.append(step.results())
        return found

    results = cluster.run(main)
    for i, problem in enumerate(problems):
        wanted = [expected(problem, rank) for rank in range(problem.num_ranks)]
        check_counted(wanted, [result[i] for result in results])


def check_gives_up(rank: Any, silent: int | None, *calls: Callable[[], None]) -> None:
    """The kernels of these calls end, and the host learns that they waited in vain, and for whom."""
    said = "nothing"
    try:
        for call in calls:
            call()
        rank.synchronize()
        calls[-1]()
    except ep.RemoteError as error:
        said = str(error)
    expected = [f"rank {rank.rank} waited"] + ([] if silent is None else [f"from rank {silent}"])
    assert all(words in said for words in expected), f"rank {rank.rank} says {said}, expected {expected}"

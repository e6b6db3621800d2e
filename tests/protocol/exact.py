# SPDX-License-Identifier: Apache-2.0
"""What the tests of ``exact_combine`` share: steps in groups that have it, and what they must give."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ht
import ll
import nccl_ep as ep
import oracle
from ht import Mode
from ll import EM, assert_same_bits
from oracle import Array, Problem


def combine_low_latency(
    rank: Any, problems: list[Problem], *, halves: bool = False, overlaps: bool = False, **config: Any
) -> list[Array]:
    """A step of each problem in one group, one behind the other: what a rank has combined.

    With ``overlaps`` the second one dispatches before the first one combines.
    """

    def combine(mine: ll.Exchange, handle: ep.Handle) -> None:
        mine.combine(handle, send_only=halves)
        handle.complete()

    changes = {"num_topk": problems[0].num_topk, "exact_combine": True, **config}
    with ep.Group(rank.comm, ll.group_config(problems[0], **changes)) as group:
        exchanges = [ll.Exchange(rank, problem, EM) for problem in problems]
        handles = [mine.make_handle(group) for mine in exchanges]
        steps = list(zip(exchanges, handles, strict=True))
        calls = [partial(call, *step) for step in steps for call in (ll.Exchange.dispatch, combine)]
        if overlaps:
            calls[1], calls[2] = calls[2], calls[1]
        for call in calls:
            call()
        return [mine.results()["combined"] for mine in exchanges]


def combine_high_throughput(
    rank: Any, problems: list[Problem], mode: Mode, **config: Any
) -> list[dict[str, Array]]:
    """The same in high throughput: all results."""
    group_config = ht.group_config(problems[0], replace(mode, exact=True), **config)
    with ep.Group(rank.comm, group_config) as group:
        exchanges = [ht.Exchange(rank, problem, mode) for problem in problems]
        handles = [mine.make_handle(group) for mine in exchanges]
        for mine, handle in zip(exchanges, handles, strict=True):
            mine.run(handle)
        return [mine.results() for mine in exchanges]


def check_low_latency(problems: list[Problem], results: list[list[Array]]) -> None:
    """Compares sums with the plain loop's, to the bit."""
    for i, problem in enumerate(problems):
        rows = [ll.expert_rows(problem, rank, EM) for rank in range(problem.num_ranks)]
        for rank, found in enumerate(results):
            wanted = oracle.combine_exact(problem, rank, rows)
            assert_same_bits(found[i], wanted, f"problem {i}, rank {rank}: combined")


def check_high_throughput(problems: list[Problem], mode: Mode, results: list[list[dict[str, Array]]]) -> None:
    """The same, and of all other results that they are as ever."""
    for i, problem in enumerate(problems):
        print("problem", i)
        ht.check(problem, replace(mode, exact=True), [found[i] for found in results])

# SPDX-License-Identifier: Apache-2.0
"""Low-Latency groups with masks: what survivors of lost ranks have.

It is what the oracle says of a problem in which the lost ranks neither have tokens nor host experts. Where
one dies in the middle of an exchange, each survivor counts all of its tokens or none.
"""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
import oracle
from ll import EM, RM, Array, Exchange, assert_same_bits, expected, expert_rows, group_config
from masks import mask_of, mask_without, without, without_tokens
from oracle import Problem, sources_of_expert, tokens_for_rank

Results = dict[str, Array]


def masked_group(rank: Any, problem: Problem, timeout_ns: int) -> ep.Group:
    return ep.Group(rank.comm, group_config(problem, enable_mask=True, timeout_ns=timeout_ns))


def exchange_without(rank: Any, problem: Problem, layout: ep.Layout, *lost: int) -> Exchange:
    """Buffers for the whole problem, with what experts give back for the one without the lost ranks."""
    mine = Exchange(rank, problem, layout)
    rank.write(mine.expert_rows, expert_rows(without(problem, *lost), rank.rank, layout))
    return mine


def clean_and_run(mine: Exchange, group: ep.Group, handle: ep.Handle, count: int) -> list[Results]:
    """All clean their masks. What so many exchanges with everybody bring then."""
    group.clean_mask()
    check_mask(mine.rank, group)
    exchanges = [Exchange(mine.rank, mine.problem, mine.layout) for _ in range(count)]
    for again in exchanges:
        again.run(handle)
    return [again.results() for again in exchanges]


def check_mask(rank: Any, group: ep.Group, *lost: int) -> None:
    """A rank has these masked and no others."""
    found = mask_of(rank, group)
    assert found == mask_without(rank.num_ranks, *lost), f"rank {rank.rank}: {found}, {group.async_error()}"


def assert_same(found: Results, wanted: Results, what: str) -> None:
    """To the bit. -0 and 0 are both fine where nothing is added."""
    for name, values in wanted.items():
        zero = values.dtype.type(0)
        if name == "combined":
            assert_same_bits(found[name] + zero, values + zero, f"{what}: {name}")
        else:
            assert_same_bits(found[name], values, f"{what}: {name}")


def check_left(problem: Problem, layout: ep.Layout, results: list[Any], *lost: int) -> None:
    """All that are not lost have what a problem without the lost ranks gives."""
    left = without(problem, *lost)
    for rank, found in enumerate(results):
        if rank not in lost:
            assert_same(found, expected(left, rank, layout), f"rank {rank}")


def check_in_the_middle(problem: Problem, layout: ep.Layout, results: list[Any], lost: int) -> None:
    """A rank has died. Rows of survivors are right and where their counters say, and so are the sums."""
    rows = [expert_rows(problem, rank, layout) for rank in range(problem.num_ranks)]
    for rank, found in enumerate(results):
        if rank != lost and not is_counted(problem, layout, rank, found, lost):
            rows[rank] = rows_without(problem, layout, rank, lost)
    check_sums(problem, layout, rows, [found and found["combined"] for found in results], lost)


def is_counted(problem: Problem, layout: ep.Layout, rank: int, found: Results, lost: int) -> bool:
    """Whether a survivor has counted the lost rank's tokens: all or none. Rows of others are right."""
    for counted, case in ((True, problem), (False, without_tokens(problem, lost))):
        wanted = expected(case, rank, layout)
        if np.array_equal(found["counters"], wanted["counters"]):
            known = ~is_from(case, layout, rank, lost)
            assert_same_bits(found["received"][known], wanted["received"][known], f"rank {rank}: received")
            return counted
    raise AssertionError(f"rank {rank} counts {found['counters']}")


def is_from(problem: Problem, layout: ep.Layout, rank: int, source: int) -> Array:
    """Which rows of dispatch's output are for tokens of a source."""
    if layout is RM:
        which = np.zeros((problem.num_ranks, problem.max_tokens), bool)
        which[source, : len(tokens_for_rank(problem, source, rank))] = True
        return which
    which = np.zeros((problem.num_local_experts, problem.num_ranks * problem.max_tokens), bool)
    for local in range(problem.num_local_experts):
        for row, (of, _) in enumerate(sources_of_expert(problem, rank * problem.num_local_experts + local)):
            which[local, row] = of == source
    return which


def rows_without(problem: Problem, layout: ep.Layout, rank: int, lost: int) -> Array:
    """What a rank's experts give back for each row of the whole problem, without those of lost tokens."""
    rows = expert_rows(problem, rank, layout)
    if layout is RM:
        return rows
    moved = rows.copy()
    for local in range(problem.num_local_experts):
        sources = sources_of_expert(problem, rank * problem.num_local_experts + local)
        kept = [row for row, (source, _) in enumerate(sources) if source != lost]
        moved[local, kept] = rows[local, : len(kept)]
    return moved


def check_sums(problem: Problem, layout: ep.Layout, rows: list[Array], sums: list[Any], lost: int) -> None:
    """Of tokens that the lost rank's experts had no part in survivors have the whole sum."""
    combine = oracle.combine_expert_major if layout is EM else oracle.combine_rank_major
    for rank, found in enumerate(sums):
        if rank != lost:
            keep = np.ones(len(problem.tokens[rank]), bool)
            keep[tokens_for_rank(problem, rank, lost)] = False
            wanted = combine(problem, rank, rows)
            assert_same_bits(found[keep], wanted[keep], f"rank {rank}: combined")
            assert np.isfinite(found.astype(np.float32)).all(), f"rank {rank}: combined"

# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for a case, before anything is allocated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import nccl_ep
from nccl_ep.plan import LAYOUTS, MemoryKind, MemoryPiece, memory_plan

from ep_bench.arguments import group_config, handle_config
from ep_bench.cases import Case
from ep_bench.devices.driver import least_memory
from ep_bench.exits import UsageError
from ep_bench.host import host_memory, in_gib
from ep_bench.inputs import inputs_of
from ep_bench.operations import OPERATIONS
from ep_bench.zones import most_rows

_SHADOW_BYTES = 12
"""What the simulator's race checker notes of each byte that a kernel or a stream touches: three accesses of
16 bytes for every four. Measured: to fill 32 MiB more takes 33.8 MB without the checker, 436 MB with it."""


def check_memory(case: Case, device: str, ops: Collection[str]) -> None:
    """UsageError if a case with these operations takes more memory than there is, or can have no group."""
    pieces = _plan(case)
    if device == "sim":
        windows = sum(piece.num_bytes for piece in pieces if piece.kind is MemoryKind.WINDOW)
        _check_host(case, ops, case.num_ranks * windows)
        return
    of_library = sum(piece.num_bytes for piece in pieces if piece.kind is not MemoryKind.PINNED)
    needed, there = of_library + _tensor_bytes(case), least_memory()
    if needed > there:
        raise UsageError(
            f"{_size_of(case)}: a rank takes at least {in_gib(needed)}, {in_gib(of_library)} of it for the "
            f"library (python -m nccl_ep.plan), expected at most the {in_gib(there)} of its GPU"
        )


def _plan(case: Case) -> list[MemoryPiece]:
    """Of a rank, for a group with as small a budget as there may be, and a handle."""
    config = replace(group_config(case, max(case.budget, case.tokens)), max_num_sms=0)
    try:
        return memory_plan(
            config, case.num_ranks, LAYOUTS[case.layout], case.top_k, team_size=case.team_size,
            handle_config=handle_config(case),
        )  # fmt: skip
    except nccl_ep.Error as error:
        raise UsageError(f"{case}: {error}") from None


def _size_of(case: Case) -> str:
    size = f"--tokens {case.tokens} --hidden {case.hidden}"
    return f"{size} --budget {case.budget}" if case.budget else size


def _check_host(case: Case, ops: Collection[str], windows: int) -> None:
    """Counts the rows that arrive. Before that it guesses, since drawing routes takes memory as well: each
    token has a drawn one at least."""
    if not case.routing.endswith(".npz"):
        rows = case.num_ranks * max(case.budget, case.tokens)
        _expect_room(case, _host_bytes(case, ops, case.most_tokens, rows, windows))
    inputs, ranks = inputs_of(case), range(case.num_ranks)
    tokens = sum(inputs.num_tokens(rank) for rank in ranks)
    rows = sum(inputs.zones.used_rows(rank) for rank in ranks)
    _expect_room(case, _host_bytes(case, ops, tokens, rows, windows))


def _expect_room(case: Case, needed: int) -> None:
    if needed > host_memory():
        raise UsageError(
            f"{_size_of(case)}: {case.num_ranks} simulated ranks take at least {in_gib(needed)}, with "
            f"what the race checker notes, expected at most the {in_gib(host_memory())} of this host"
        )


def _host_bytes(case: Case, ops: Collection[str], num_tokens: int, num_rows: int, windows: int) -> int:
    """What simulated ranks use for certain, all together: the memory of what nobody touches is not there.

    The library's windows are filled when a group is made, outputs and rows to be combined before every run;
    dispatch reads the given rows. Those that arrive as they are given verification has, too, and of combine's
    sums what they must be and how far off they may be, in float64.
    """
    given = num_tokens * case.sent.num_bytes
    outputs = num_rows * case.received.num_bytes + num_tokens * case.row_bytes
    filled = windows + outputs + num_rows * case.row_bytes
    touched = filled + (given if any(OPERATIONS[op].trips for op in ops) else 0)
    known = 0 if case.received.scales else case.most_tokens * case.sent.num_bytes
    has_sums = any("combine" in OPERATIONS[op].checked for op in ops)
    sums = 2 * 8 * num_tokens * case.hidden if has_sums else 0
    return given + filled + known + sums + _SHADOW_BYTES * touched


def _tensor_bytes(case: Case) -> int:
    """Of a rank's tensors, at least: rows that are given, received, combined and returned."""
    rows = most_rows(case) if case.algorithm == "ll" else max(case.budget, case.tokens)
    given, taken = case.sent.num_bytes + case.row_bytes, case.received.num_bytes + case.row_bytes
    return case.tokens * given + rows * taken

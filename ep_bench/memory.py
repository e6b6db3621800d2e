# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for a case, before anything is allocated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import nccl_ep
from nccl_ep.plan import LAYOUTS, MemoryKind, memory_plan

from ep_bench.arguments import group_config, handle_config
from ep_bench.cases import Case
from ep_bench.devices.driver import least_memory
from ep_bench.exits import UsageError
from ep_bench.host import host_memory, in_gib
from ep_bench.operations import OPERATIONS
from ep_bench.zones import most_rows


def check_memory(case: Case, device: str, ops: Collection[str]) -> None:
    """UsageError if a case with these operations takes more memory than there is, or can have no group."""
    of_library = _library_bytes(case)
    size = f"--tokens {case.tokens} --hidden {case.hidden}"
    size += f" --budget {case.budget}" if case.budget else ""
    if device == "sim":
        has_sums = any("combine" in OPERATIONS[op].checked for op in ops)
        needed, there = case.num_ranks * _filled_bytes(case, has_sums=has_sums), host_memory()
        if needed > there:
            raise UsageError(
                f"{size}: rows of {case.num_ranks} simulated ranks take at least {in_gib(needed)}, expected "
                f"at most the {in_gib(there)} of this host"
            )
    else:
        needed, there = of_library + _tensor_bytes(case), least_memory()
        if needed > there:
            raise UsageError(
                f"{size}: a rank takes at least {in_gib(needed)}, {in_gib(of_library)} of it for the library "
                f"(python -m nccl_ep.plan), expected at most the {in_gib(there)} of its GPU"
            )


def _library_bytes(case: Case) -> int:
    """Of a rank's GPU, for a group with as small a budget as there may be, and a handle."""
    config = replace(group_config(case, max(case.budget, case.tokens)), max_num_sms=0)
    try:
        pieces = memory_plan(
            config, case.num_ranks, LAYOUTS[case.layout], case.top_k, team_size=case.team_size,
            handle_config=handle_config(case),
        )  # fmt: skip
    except nccl_ep.Error as error:
        raise UsageError(f"{case}: {error}") from None
    return sum(piece.num_bytes for piece in pieces if piece.kind is not MemoryKind.PINNED)


def _tensor_bytes(case: Case) -> int:
    """Of a rank's tensors, at least: rows that are given, received, combined and returned."""
    received = most_rows(case) if case.algorithm == "ll" else max(case.budget, case.tokens)
    return _row_bytes(case, case.tokens, received)


def _filled_bytes(case: Case, *, has_sums: bool) -> int:
    """What a rank of the simulator really uses, at least: low latency fills only the rows that arrive, which
    are no fewer than tokens. Verification has the given rows as well, and of combine's sums what they must be
    and how far off they may be, in float64."""
    received = case.tokens if case.algorithm == "ll" else max(case.budget, case.tokens)
    verification = case.tokens * (case.sent.num_bytes + (2 * 8 * case.hidden if has_sums else 0))
    return _row_bytes(case, case.tokens, received) + verification


def _row_bytes(case: Case, tokens: int, received: int) -> int:
    given, taken = case.sent.num_bytes + case.row_bytes, case.received.num_bytes + case.row_bytes
    return tokens * given + received * taken

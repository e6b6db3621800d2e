# SPDX-License-Identifier: Apache-2.0
"""Zones: where received rows lie, and what counters say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.exits import UsageError

if TYPE_CHECKING:
    from ep_bench.inputs import Inputs

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Zone:
    """Rows of an output that belong together: an expert's, a source rank's, or all of them.

    Attributes:
        first: the first of them.
        tokens: which token each row holds, in the order of (source rank, token).
        padding: rows of zeros behind those.
        has_spare: there is another row behind, which nothing may touch.
    """

    first: int
    tokens: Array
    padding: int
    has_spare: bool

    @property
    def num_rows(self) -> int:
        """Rows that are looked at."""
        return len(self.tokens) + self.padding + self.has_spare


class Zones:
    """All ranks' zones of one case.

    Attributes:
        budget: high throughput: the rows that each rank may receive, even if the library is not told.
        num_rows: of each rank's output.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._case = inputs, inputs.case
        self._of_rank: dict[int, list[Zone]] = {}
        self.budget = self._budget() if self._case.algorithm == "ht" else 0
        self.num_rows = self.budget + 1 if self.budget else most_rows(self._case)

    def of_rank(self, rank: int) -> list[Zone]:
        """A rank's zones, by expert or source rank."""
        if rank not in self._of_rank:
            self._of_rank[rank] = self._behind_one_another(rank) if self.budget else self._of_fixed_size(rank)
        return self._of_rank[rank]

    def counters(self, rank: int) -> dict[str, Array]:
        """What the counters of a layout info must be."""
        zones = self.of_rank(rank)
        counts = [len(zone.tokens) + zone.padding for zone in zones]
        if self._case.algorithm == "ll":
            name = "expert_counters" if self._case.layout == "em" else "src_rank_counters"
            return {name: np.array(counts, np.int32)}
        total = {"recv_total_counter": np.array([sum(counts)], np.int32)}
        if self._case.layout == "fl":
            return {"expert_counters": self._rows_of_experts(rank).astype(np.int32), **total}
        offsets = np.array([zone.first for zone in zones], np.int32)
        return {"expert_counters": np.array(counts, np.int32), "expert_offsets": offsets, **total}

    def _of_fixed_size(self, rank: int) -> list[Zone]:
        num_zones, room = fixed_zones(self._case)
        tokens = [self._tokens_of(rank, zone) for zone in range(num_zones)]
        return [Zone(zone * room, ids, 0, len(ids) < room) for zone, ids in enumerate(tokens)]

    def _behind_one_another(self, rank: int) -> list[Zone]:
        if self._case.layout == "fl":
            return [Zone(0, self._from_all(lambda source: self._inputs.goes_to(source, rank)), 0, True)]
        zones: list[Zone] = []
        first, experts = 0, self._case.local_experts
        for expert in range(experts):
            ids = self._tokens_of(rank, expert)
            zones.append(Zone(first, ids, -len(ids) % self._case.alignment, expert == experts - 1))
            first += len(ids) + zones[-1].padding
        return zones

    def _tokens_of(self, rank: int, zone: int) -> Array:
        if self._case.layout == "rm":
            return self._inputs.token_ids(zone)[self._inputs.goes_to(zone, rank)]
        expert = rank * self._case.local_experts + zone
        return self._from_all(lambda source: (self._inputs.routing[source].topk_idx == expert).any(axis=1))

    def _from_all(self, goes: Any) -> Array:
        ids = [self._inputs.token_ids(source)[goes(source)] for source in range(self._case.num_ranks)]
        return np.concatenate(ids)

    def _rows_of_experts(self, rank: int) -> Array:
        """``[L]``: rows for each expert of a rank, without padding."""
        topk_idx = np.concatenate([routing.topk_idx.ravel() for routing in self._inputs.routing])
        counts = np.bincount(topk_idx[topk_idx >= 0], minlength=self._case.experts)
        return counts[rank * self._case.local_experts :][: self._case.local_experts]

    def _budget(self) -> int:
        """What the case says, else as many as the fullest rank needs."""
        case = self._case
        needs = [self._needs(rank) for rank in range(case.num_ranks)]
        fullest = int(np.argmax(needs))
        if case.budget and case.budget < needs[fullest]:
            raise UsageError(
                f"--budget {case.budget}: rank {fullest} receives {needs[fullest]} rows, expected at least "
                f"as many: only complete results are verified"
            )
        return case.budget or max(case.tokens, needs[fullest])

    def _needs(self, rank: int) -> int:
        case = self._case
        if case.layout == "fl":
            return sum(int(self._inputs.goes_to(source, rank).sum()) for source in range(case.num_ranks))
        return int((-(-self._rows_of_experts(rank) // case.alignment) * case.alignment).sum())


def fixed_zones(case: Case) -> tuple[int, int]:
    """Low latency: how many zones there are, and how many rows each has room for."""
    return (case.local_experts, case.num_ranks * case.tokens) if case.layout == "em" else (
        case.num_ranks, case.tokens)  # fmt: skip


def most_rows(case: Case) -> int:
    """Rows of an output, at most."""
    if case.algorithm == "ll":
        num_zones, room = fixed_zones(case)
        return num_zones * room
    hits = min(case.top_k, case.local_experts) if case.layout == "em" else 1
    return case.num_ranks * case.tokens * hits + case.local_experts * (case.alignment - 1) + 1

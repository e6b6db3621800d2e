# SPDX-License-Identifier: Apache-2.0
"""Zones: where received rows lie, and what counters say of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.dropping import share, thin
from ep_bench.exits import UsageError
from ep_bench.routes import Routes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Zone:
    """Rows of an output that belong together: an expert's, a source rank's, or all of them.

    Attributes:
        first: the first of them.
        tokens: which token each row holds, in the order of (source rank, token). Dropped ones are none.
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
        budget: high throughput: the rows that each rank may receive, even if the library is not told. What is
            more is dropped.
        num_rows: of each rank's output.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes, self._case = routes, routes.case
        self._of_rank: dict[int, list[Zone]] = {}
        self.budget = self._budget() if self._case.algorithm == "ht" else 0
        self.num_rows = self.budget + 1 if self.budget else most_rows(self._case)

    def of_rank(self, rank: int) -> list[Zone]:
        """A rank's zones, by expert or source rank."""
        if rank not in self._of_rank:
            self._of_rank[rank] = self._behind_one_another(rank) if self.budget else self._of_fixed_size(rank)
        return self._of_rank[rank]

    def used_rows(self, rank: int) -> int:
        """Rows of a rank's output that anybody looks at, of all that it has."""
        return self.num_rows if self.budget else sum(zone.num_rows for zone in self.of_rank(rank))

    def arrivals(self, rank: int) -> Array:
        """Which tokens a rank receives, each once."""
        return np.unique(np.concatenate([zone.tokens for zone in self.of_rank(rank)]))

    @cached_property
    def num_dropped(self) -> int:
        """Rows that there is no room for, of all ranks together, not counting padding."""
        if self._case.algorithm == "ll":
            return 0
        ranks = range(self._case.num_ranks)
        return sum(
            self._wanted(rank) - sum(len(zone.tokens) for zone in self.of_rank(rank)) for rank in ranks
        )

    def counters(self, rank: int) -> dict[str, Array]:
        """What the counters of a layout info must be. The total counts what is dropped, too."""
        zones = self.of_rank(rank)
        counts = [len(zone.tokens) + zone.padding for zone in zones]
        if self._case.algorithm == "ll":
            name = "expert_counters" if self._case.layout == "em" else "src_rank_counters"
            return {name: np.array(counts, np.int32)}
        total = {"recv_total_counter": np.array([self._needs(rank)], np.int32)}
        if self._case.layout == "fl":
            return {"expert_counters": self._hits_of_experts(rank, zones[0].tokens), **total}
        offsets = np.array([zone.first for zone in zones], np.int32)
        return {"expert_counters": np.array(counts, np.int32), "expert_offsets": offsets, **total}

    def _of_fixed_size(self, rank: int) -> list[Zone]:
        num_zones, room = fixed_zones(self._case)
        tokens = [self._tokens_of(rank, zone) for zone in range(num_zones)]
        return [Zone(zone * room, ids, 0, len(ids) < room) for zone, ids in enumerate(tokens)]

    def _behind_one_another(self, rank: int) -> list[Zone]:
        if self._case.layout == "fl":
            ids = self._from_all(lambda source: self._routes.goes_to(source, rank))
            return [Zone(0, thin(ids, self.budget), 0, True)]
        alignment, last = self._case.alignment, self._case.local_experts - 1
        edges = share(self._blocks_of_experts(rank), self.budget // alignment) * alignment
        zones: list[Zone] = []
        for expert in range(self._case.local_experts):
            first, end = (int(edge) for edge in edges[expert : expert + 2])
            ids = thin(self._tokens_of(rank, expert), end - first)
            zones.append(Zone(first, ids, end - first - len(ids), expert == last))
        return zones

    def _tokens_of(self, rank: int, zone: int) -> Array:
        if self._case.layout == "rm":
            return self._routes.token_ids(zone)[self._routes.goes_to(zone, rank)]
        expert = rank * self._case.local_experts + zone
        return self._from_all(lambda source: (self._routes.routing[source].topk_idx == expert).any(axis=1))

    def _from_all(self, goes: Any) -> Array:
        ids = [self._routes.token_ids(source)[goes(source)] for source in range(self._case.num_ranks)]
        return np.concatenate(ids)

    def _rows_of_experts(self, rank: int) -> Array:
        """``[L]``: rows for each expert of a rank, without padding."""
        topk_idx = np.concatenate([routing.topk_idx.ravel() for routing in self._routes.routing])
        counts = np.bincount(topk_idx[topk_idx >= 0], minlength=self._case.experts)
        return counts[rank * self._case.local_experts :][: self._case.local_experts]

    def _blocks_of_experts(self, rank: int) -> Array:
        """``[L]``: those rows in whole alignments."""
        return np.asarray(-(-self._rows_of_experts(rank) // self._case.alignment))

    def _hits_of_experts(self, rank: int, tokens: Array) -> Array:
        """int32 ``[L]``: how many of these tokens each of a rank's experts has."""
        topk_idx = self._routes.routes_of(tokens).topk_idx
        local = topk_idx[self._routes.leads_to(topk_idx, rank)] % self._case.local_experts
        return np.bincount(local, minlength=self._case.local_experts).astype(np.int32)

    def _budget(self) -> int:
        """What the case says, else as many as the fullest rank needs."""
        case = self._case
        needs = [self._needs(rank) for rank in range(case.num_ranks)]
        fullest = int(np.argmax(needs))
        if 0 < case.budget < needs[fullest] and case.overflow != "drop":
            raise UsageError(
                f"--budget {case.budget}: rank {fullest} receives {needs[fullest]} rows, expected at least "
                f"as many, or --overflow drop"
            )
        return case.budget or max(case.tokens, needs[fullest])

    def _needs(self, rank: int) -> int:
        """Rows of a rank's output with room for all, padding included."""
        if self._case.layout == "fl":
            return self._wanted(rank)
        return int(self._blocks_of_experts(rank).sum()) * self._case.alignment

    def _wanted(self, rank: int) -> int:
        """The same without padding."""
        if self._case.layout == "em":
            return int(self._rows_of_experts(rank).sum())
        return sum(int(self._routes.goes_to(source, rank).sum()) for source in range(self._case.num_ranks))


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

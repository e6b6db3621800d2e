# SPDX-License-Identifier: Apache-2.0
"""Which tokens all ranks have, and where they go."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.routing import Routing, Shape, make_routing

Array = npt.NDArray[Any]


class Routes:
    """The routes of all ranks in one case.

    Attributes:
        routing: routes of each rank.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        shape = Shape(case.num_ranks, case.tokens, case.top_k, case.experts)
        self.routing: list[Routing] = make_routing(case.routing, shape, case.seed)
        if case.lost is not None:
            self.routing = [self._without(case.lost, rank) for rank in range(case.num_ranks)]

    def _without(self, lost: int, rank: int) -> Routing:
        """A rank's routes but those of a lost rank, and those to it."""
        given = self.routing[rank]
        gone = np.full_like(given.topk_idx, rank == lost, bool) | self.leads_to(given.topk_idx, lost)
        return Routing(np.where(gone, -1, given.topk_idx), given.topk_weights)

    def num_tokens(self, rank: int) -> int:
        """Tokens that a rank dispatches."""
        return len(self.routing[rank].topk_idx)

    def token_ids(self, rank: int) -> Array:
        """Numbers of a rank's tokens, unique in the world."""
        return rank * self.case.tokens + np.arange(self.num_tokens(rank))

    def routes_of(self, token_ids: Array) -> Routing:
        """The routes of these tokens, ``[n, K]``."""
        sources, tokens = np.divmod(token_ids, self.case.tokens)
        shape = (len(token_ids), self.case.top_k)
        found = Routing(np.full(shape, -1, np.int64), np.zeros(shape, np.float32))
        for source in np.unique(sources):
            mine, routing = sources == source, self.routing[source]
            found.topk_idx[mine] = routing.topk_idx[tokens[mine]]
            found.topk_weights[mine] = routing.topk_weights[tokens[mine]]
        return found

    def goes_to(self, source: int, rank: int) -> Array:
        """bool ``[b]``: which of a source's tokens have an expert on a rank."""
        return np.asarray(self.is_local(source, rank).any(axis=1))

    def is_local(self, source: int, rank: int) -> Array:
        """bool ``[b, K]``: which of a source's routes lead to a rank."""
        return self.leads_to(self.routing[source].topk_idx, rank)

    def leads_to(self, topk_idx: Array, rank: int) -> Array:
        """Which of these routes lead to a rank."""
        return np.asarray((topk_idx >= 0) & (topk_idx // self.case.local_experts == rank))

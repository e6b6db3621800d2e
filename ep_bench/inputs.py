# SPDX-License-Identifier: Apache-2.0
"""The numbers that are exchanged. Every rank can say what any row of any rank holds, without being told.

A token's row opens with its number in three digits, so that a received row says which token it is. All other
numbers come from a small pool of random rows, each scaled by a factor of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import DTYPES, Case
from ep_bench.routing import Routing, Shape, make_routing

Array = npt.NDArray[Any]

_POOL_ROWS = 61
_NUM_GAINS = 1009
_DIGIT = 128  # exact in every data type
_NUM_DIGITS = 3


class Inputs:
    """What all ranks send in one case.

    Attributes:
        routing: routes of each rank.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dtype = DTYPES[case.dtype]
        shape = Shape(case.num_ranks, case.tokens, case.top_k, case.experts)
        self.routing: list[Routing] = make_routing(case.routing, shape, case.seed)
        random = np.random.default_rng([case.seed, case.hidden])
        self._pool = random.standard_normal((_POOL_ROWS, case.hidden), np.float32)

    def num_tokens(self, rank: int) -> int:
        """Tokens that a rank dispatches."""
        return len(self.routing[rank].topk_idx)

    def token_ids(self, rank: int) -> Array:
        """Numbers of a rank's tokens, unique in the world."""
        return rank * self.case.tokens + np.arange(self.num_tokens(rank))

    def token_rows(self, token_ids: Array) -> Array:
        """``[n, H]``: the rows of these tokens."""
        rows = self._rows(token_ids)
        for digit in range(_NUM_DIGITS):
            rows[:, digit] = token_ids // _DIGIT**digit % _DIGIT
        return rows

    def identify(self, rows: Array) -> Array:
        """Which token each row says it is; -1 if it says nothing sensible."""
        digits = rows[:, :_NUM_DIGITS].astype(np.float64)
        sane = ((digits >= 0) & (digits < _DIGIT) & (digits == np.floor(digits))).all(axis=1)
        numbers = np.where(sane[:, None], digits, 0) @ (float(_DIGIT) ** np.arange(_NUM_DIGITS))
        known = sane & (numbers < self.case.num_ranks * self.case.tokens)
        return np.where(known, numbers, -1).astype(np.int64)

    def expert_rows(self, rank: int, zone: Array | int, row: Array) -> Array:
        """``[n, H]``: what combine sends from these rows of a rank's zones."""
        zones = rank * self.case.num_zones + np.asarray(zone)
        return self._rows(7 + zones * self.case.zone_rows + row)

    def zone_tokens(self, rank: int, zone: int) -> Array:
        """Numbers of the tokens that a zone of a rank receives, in the order of (source rank, token)."""
        case = self.case
        if case.layout == "em":
            expert, sources = rank * case.local_experts + zone, range(case.num_ranks)
            goes = [(self.routing[source].topk_idx == expert).any(axis=1) for source in sources]
        else:
            sources = range(zone, zone + 1)
            goes = [self.goes_to(zone, rank)]
        ids = [self.token_ids(source)[mask] for source, mask in zip(sources, goes, strict=True)]
        return np.concatenate(ids)

    def goes_to(self, source: int, rank: int) -> Array:
        """bool ``[b]``: which of a source's tokens have an expert on a rank."""
        return np.asarray(self.is_local(source, rank).any(axis=1))

    def is_local(self, source: int, rank: int) -> Array:
        """bool ``[b, K]``: which of a source's routes lead to a rank."""
        topk_idx = self.routing[source].topk_idx
        return np.asarray((topk_idx >= 0) & (topk_idx // self.case.local_experts == rank))

    def _rows(self, numbers: Array) -> Array:
        gains = 1 + (numbers % _NUM_GAINS) / np.float32(_NUM_GAINS)
        rows = self._pool[numbers % _POOL_ROWS] * gains.astype(np.float32)[:, None]
        return np.asarray(rows.astype(self.dtype))


@lru_cache(maxsize=2)
def inputs_of(case: Case) -> Inputs:
    """The inputs of a case; simulated ranks share them."""
    return Inputs(case)

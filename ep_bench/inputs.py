# SPDX-License-Identifier: Apache-2.0
"""The numbers that are exchanged. Every rank can say what any row of any rank holds, without being told.

A token's row opens with its number in three digits, so that a received row says which token it is. All other
numbers come from a small pool of random rows, each scaled by a factor of its own.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import DTYPES, Case
from ep_bench.routes import Routes
from ep_bench.zones import Zones

Array = npt.NDArray[Any]

_POOL_ROWS = 61
_NUM_GAINS = 1009
_DIGIT = 128  # exact in every data type
_NUM_DIGITS = 3
_BLOCK_ROWS = 1024


class Inputs(Routes):
    """What all ranks send in one case, and where.

    Attributes:
        zones: where rows lie once they are dispatched.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.dtype = DTYPES[case.dtype]
        random = np.random.default_rng([case.seed, case.hidden])
        self._pool = random.standard_normal((_POOL_ROWS, case.hidden), np.float32)
        self.zones = Zones(self)

    def token_rows(self, token_ids: Array) -> Array:
        """``[n, H]``: the rows of these tokens."""
        return np.asarray(self._all_token_rows[token_ids])

    @cached_property
    def _all_token_rows(self) -> Array:
        numbers = np.arange(self.case.num_ranks * self.case.tokens)
        rows = self._rows(numbers)
        for digit in range(_NUM_DIGITS):
            rows[:, digit] = numbers // _DIGIT**digit % _DIGIT
        return rows

    def identify(self, rows: Array) -> Array:
        """Which token each row says it is; -1 if it says nothing sensible."""
        digits = rows[:, :_NUM_DIGITS].astype(np.float64)
        sane = ((digits >= 0) & (digits < _DIGIT) & (digits == np.floor(digits))).all(axis=1)
        numbers = np.where(sane[:, None], digits, 0) @ (float(_DIGIT) ** np.arange(_NUM_DIGITS))
        known = sane & (numbers < self.case.num_ranks * self.case.tokens)
        return np.where(known, numbers, -1).astype(np.int64)

    def expert_rows(self, rank: int, row: Array) -> Array:
        """``[n, H]``: what combine sends from these rows of a rank."""
        return self._rows(7 + rank * self.zones.num_rows + row)

    def expert_weights(self, rank: int, row: Array) -> Array:
        """``[n, K]``: the gradients of weights that a backward combine sends with these rows of a rank."""
        numbers = (rank * self.zones.num_rows + row)[:, None] * self.case.top_k + np.arange(self.case.top_k)
        return np.asarray(self._gains(numbers) * self._pool.ravel()[numbers % self._pool.size])

    def _rows(self, numbers: Array) -> Array:
        rows = np.empty((len(numbers), self.case.hidden), self.dtype)
        for first in range(0, len(numbers), _BLOCK_ROWS):  # the products take more room than the rows
            block = numbers[first : first + _BLOCK_ROWS]
            rows[first : first + len(block)] = self._pool[block % _POOL_ROWS] * self._gains(block)[:, None]
        return rows

    def _gains(self, numbers: Array) -> Array:
        return np.asarray(1 + (numbers % _NUM_GAINS) / np.float32(_NUM_GAINS), np.float32)


@lru_cache(maxsize=2)
def inputs_of(case: Case) -> Inputs:
    """The inputs of a case; simulated ranks share them."""
    return Inputs(case)

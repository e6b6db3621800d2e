# SPDX-License-Identifier: Apache-2.0
"""Random numbers that every rank can make again, for any row: rows of a small pool, each scaled by a
factor of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.formats import DTYPES

Array = npt.NDArray[Any]

_POOL_ROWS = 61
_NUM_GAINS = 1009
_BLOCK_ROWS = 1024


class RandomRows:
    """Rows of a case's data type, by number."""

    def __init__(self, case: Case) -> None:
        random = np.random.default_rng([case.seed, case.hidden])
        self._pool = random.standard_normal((_POOL_ROWS, case.hidden), np.float32)
        self._dtype = DTYPES[case.dtype]

    def rows(self, numbers: Array) -> Array:
        """``[n, H]``: the rows with these numbers."""
        rows = np.empty((len(numbers), self._pool.shape[1]), self._dtype)
        for first in range(0, len(numbers), _BLOCK_ROWS):  # the products take more room than the rows
            block = numbers[first : first + _BLOCK_ROWS]
            rows[first : first + len(block)] = self._pool[block % _POOL_ROWS] * _gains(block)[:, None]
        return rows

    def singles(self, numbers: Array) -> Array:
        """float32, as many as there are numbers."""
        return np.asarray(_gains(numbers) * self._pool.ravel()[numbers % self._pool.size])


def _gains(numbers: Array) -> Array:
    return np.asarray(1 + (numbers % _NUM_GAINS) / np.float32(_NUM_GAINS), np.float32)

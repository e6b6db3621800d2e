# SPDX-License-Identifier: Apache-2.0
"""What is exchanged. Every rank can say what any row of any rank holds, without being told."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.formats import DTYPES
from ep_bench.numbers import RandomRows
from ep_bench.routes import Routes
from ep_bench.tokens import tokens_of
from ep_bench.zones import Zones

Array = npt.NDArray[Any]


class Inputs(Routes):
    """What all ranks send in one case, and where.

    Attributes:
        dtype: of what combine sums.
        tokens: what dispatch is given.
        zones: where rows lie once they are dispatched.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.dtype = DTYPES[case.dtype]
        self._random = RandomRows(case)
        self.tokens = tokens_of(case, self._random)
        self.zones = Zones(self)

    def expert_rows(self, rank: int, row: Array) -> Array:
        """``[n, H]``: what combine sends from these rows of a rank."""
        return self._random.rows(7 + rank * self.zones.num_rows + row)

    def expert_weights(self, rank: int, row: Array) -> Array:
        """``[n, K]``: the gradients of weights that a backward combine sends with these rows of a rank."""
        numbers = (rank * self.zones.num_rows + row)[:, None] * self.case.top_k + np.arange(self.case.top_k)
        return self._random.singles(numbers)


@lru_cache(maxsize=2)
def inputs_of(case: Case) -> Inputs:
    """The inputs of a case; simulated ranks share them."""
    return Inputs(case)

# SPDX-License-Identifier: Apache-2.0
"""Cases: the combinations of options that are measured one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from ep_bench.exits import UsageError
from ep_bench.routing import file_shape

DTYPES: dict[str, np.dtype[Any]] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}


@dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
        tokens: most tokens of a rank.
        experts: of all ranks together.
        sms: most SMs that kernels occupy; 0 lets the library choose.
        zero_copy: dispatch delivers into a window.
    """

    algorithm: str
    layout: str
    tokens: int
    hidden: int
    top_k: int
    experts: int
    dtype: str
    routing: str
    sms: int
    zero_copy: bool
    num_ranks: int
    seed: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's row."""
        return self.hidden * DTYPES[self.dtype].itemsize

    @property
    def local_experts(self) -> int:
        return self.experts // self.num_ranks

    @property
    def num_zones(self) -> int:
        """Zones of the received rows: an expert's in expert-major, a source rank's in rank-major."""
        return self.local_experts if self.layout == "em" else self.num_ranks

    @property
    def zone_rows(self) -> int:
        """Rows that a zone has room for."""
        return self.num_ranks * self.tokens if self.layout == "em" else self.tokens

    def __str__(self) -> str:
        parts = [self.algorithm, self.layout, f"{self.tokens} tokens", f"hidden {self.hidden}"]
        parts += [f"top-{self.top_k} of {self.experts}", self.dtype, self.routing]
        parts += ["zero copy"] if self.zero_copy else []
        parts += [f"{self.sms} SMs"] if self.sms else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Sweep:
    """Lists of values, whose combinations are the cases. A routing file decides about tokens and top-k."""

    algorithm: tuple[str, ...]
    layout: tuple[str, ...]
    tokens: tuple[int, ...]
    hidden: tuple[int, ...]
    top_k: tuple[int, ...]
    experts: tuple[int, ...]
    dtype: tuple[str, ...]
    routing: tuple[str, ...]
    sms: tuple[int, ...]
    zero_copy: tuple[bool, ...]

    def cases(self, num_ranks: int, seed: int) -> list[Case]:
        """All cases in the order of the lists; UsageError if one is impossible."""
        cases = []
        for algorithm, layout, hidden, experts, dtype, routing, sms, zero_copy in product(
            self.algorithm, self.layout, self.hidden, self.experts, self.dtype, self.routing, self.sms,
            self.zero_copy,
        ):  # fmt: skip
            for tokens, top_k in self._sizes(routing, experts, num_ranks):
                # Expert-major rows are always copied to their expert's zone, so there it is off.
                in_window = zero_copy and layout == "rm"
                case = Case(
                    algorithm, layout, tokens, hidden, top_k, experts, dtype, routing, sms, in_window,
                    num_ranks, seed,
                )  # fmt: skip
                _check(case)
                cases.append(case)
        return list(dict.fromkeys(cases))

    def _sizes(self, routing: str, experts: int, num_ranks: int) -> list[tuple[int, int]]:
        if not routing.endswith(".npz"):
            return list(product(self.tokens, self.top_k))
        shape = file_shape(routing, experts)
        if shape.num_ranks != num_ranks:
            raise UsageError(
                f"{routing} has routes of {shape.num_ranks} ranks, expected {num_ranks} (--ranks)"
            )
        return [(shape.num_tokens, shape.num_topk)]


def _check(case: Case) -> None:
    if case.experts % case.num_ranks:
        raise UsageError(f"--experts {case.experts}: expected a multiple of the {case.num_ranks} ranks")
    if case.top_k > case.experts:
        raise UsageError(f"--top-k {case.top_k}: expected at most the number of experts, {case.experts}")
    if case.row_bytes % 16:
        raise UsageError(
            f"--hidden {case.hidden}: a row of {case.dtype} has {case.row_bytes} bytes, expected a multiple "
            f"of 16"
        )
    if case.tokens < 1:
        raise UsageError(f"--tokens {case.tokens}: expected at least one token on some rank")

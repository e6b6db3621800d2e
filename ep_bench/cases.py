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
        zero_copy: dispatch delivers into a window; in high throughput, combine also reads from one.

    High throughput only:
        pass_direction: ``fwd`` or ``bwd``.
        eager: outputs have as many rows as there are, instead of a budget.
        budget: rows that a rank may receive; 0: as many as the fullest rank needs.
        alignment: of each expert's rows, expert-major.
        overflow: what becomes of rows beyond the budget, ``trap`` or ``drop``.

    Where ranks are:
        num_teams: LSA teams that they form; consecutive ranks are a team.
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
    pass_direction: str = "fwd"
    eager: bool = False
    budget: int = 0
    alignment: int = 1
    overflow: str = "trap"
    num_teams: int = 1

    @property
    def team_size(self) -> int:
        """Ranks of an LSA team."""
        return self.num_ranks // self.num_teams

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's row."""
        return self.hidden * DTYPES[self.dtype].itemsize

    @property
    def local_experts(self) -> int:
        return self.experts // self.num_ranks

    def __str__(self) -> str:
        parts = [self.algorithm, self.layout, f"{self.tokens} tokens", f"hidden {self.hidden}"]
        parts += [f"top-{self.top_k} of {self.experts}", self.dtype, self.routing]
        parts += ["zero copy"] if self.zero_copy else []
        parts += [f"{self.sms} SMs"] if self.sms else []
        parts += ["backward"] if self.pass_direction == "bwd" else []
        parts += ["eager"] if self.eager else []
        parts += [f"budget {self.budget}"] if self.budget else []
        parts += ["drop"] if self.overflow == "drop" else []
        parts += [f"alignment {self.alignment}"] if self.alignment > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Sweep:
    """Options that take lists, and those that all cases share. A routing file decides about tokens and
    top-k."""

    algorithm: str
    layout: tuple[str, ...]
    tokens: tuple[int, ...]
    hidden: tuple[int, ...]
    top_k: tuple[int, ...]
    experts: tuple[int, ...]
    dtype: tuple[str, ...]
    routing: tuple[str, ...]
    sms: tuple[int, ...]
    zero_copy: tuple[bool, ...]
    pass_direction: tuple[str, ...] = ("fwd",)
    alignment: tuple[int, ...] = (1,)
    eager: bool = False
    budget: int = 0
    overflow: str = "trap"

    def cases(self, num_ranks: int, seed: int, num_teams: int = 1) -> list[Case]:
        """All cases in the order of the lists; UsageError if one is impossible."""
        cases = []
        for layout, hidden, experts, dtype, routing, sms, zero_copy, pass_direction, alignment in product(
            self.layout, self.hidden, self.experts, self.dtype, self.routing, self.sms, self.zero_copy,
            self.pass_direction, self.alignment,
        ):  # fmt: skip
            for tokens, top_k in self._sizes(routing, experts, num_ranks):
                # Low latency always copies expert-major rows to their expert's zone, so there it is off.
                in_window = zero_copy and (self.algorithm, layout) != ("ll", "em")
                case = Case(
                    self.algorithm, layout, tokens, hidden, top_k, experts, dtype, routing, sms, in_window,
                    num_ranks, seed, pass_direction, self.eager, self.budget,
                    alignment if layout == "em" else 1, self.overflow, num_teams,
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
    if case.alignment & (case.alignment - 1):
        raise UsageError(f"--alignment {case.alignment}: expected a power of two")
    if 0 < case.budget < case.tokens:
        raise UsageError(f"--budget {case.budget}: expected at least the tokens of a rank, {case.tokens}")

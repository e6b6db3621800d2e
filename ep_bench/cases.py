# SPDX-License-Identifier: Apache-2.0
"""Cases: the combinations of options that are measured one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ep_bench.exits import UsageError
from ep_bench.formats import TOKEN_TYPES, Format, Part
from ep_bench.recipes import NO_RECIPE, Recipe
from ep_bench.routing import check_spec, file_shape


@dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
        tokens: most tokens of a rank.
        experts: of all ranks together.
        sms: most SMs that kernels occupy; 0 lets the library choose.
        dtype: of what combine sums, and without a recipe of what dispatch sends.
        zero_copy: dispatch delivers into a window; in high throughput, combine also reads from one.
        recipe: how rows are quantized on their way.
        mask: the group goes on without ranks that do not answer.
        timeout_ns: how long kernels wait for a rank; 0: as long as the library does.
        lost: a rank without tokens, to whose experts nobody sends any; None: there is none.

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
    recipe: Recipe = NO_RECIPE
    mask: bool = False
    timeout_ns: int = 0
    lost: int | None = None

    @property
    def team_size(self) -> int:
        """Ranks of an LSA team."""
        return self.num_ranks // self.num_teams

    @property
    def numbers(self) -> Part:
        """A row as combine takes and gives it."""
        return Part(self.hidden, TOKEN_TYPES[self.dtype])

    @property
    def row_bytes(self) -> int:
        """Its bytes."""
        return self.numbers.num_bytes

    @property
    def sent(self) -> Format:
        """What dispatch takes of a token."""
        return self.recipe.sent(self.numbers)

    @property
    def received(self) -> Format:
        """What dispatch makes of it, and what travels."""
        return self.recipe.received(self.numbers)

    @property
    def returned(self) -> Format:
        """What travels in combine."""
        return self.recipe.returned(self.numbers)

    @property
    def most_row_bytes(self) -> int:
        """Of all rows that are given, taken or travel."""
        return max(self.row_bytes, self.sent.num_bytes, self.received.num_bytes)

    @property
    def most_tokens(self) -> int:
        """Of all ranks together."""
        return self.num_ranks * self.tokens

    @property
    def local_experts(self) -> int:
        return self.experts // self.num_ranks

    def __str__(self) -> str:
        parts = [self.algorithm, self.layout, f"{self.tokens} tokens", f"hidden {self.hidden}"]
        parts += [f"top-{self.top_k} of {self.experts}", self.dtype, self.routing]
        parts += [self.recipe.name] if self.recipe != NO_RECIPE else []
        parts += ["mask"] if self.mask else []
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
    recipe: Recipe = NO_RECIPE
    mask: bool = False
    timeout_ns: int = 0

    def cases(self, num_ranks: int, seed: int, num_teams: int = 1) -> list[Case]:
        """All cases in the order of the lists; UsageError if one is impossible."""
        cases = []
        for layout, hidden, experts, dtype, routing, sms, zero_copy, pass_direction, alignment in product(
            self.layout, self.hidden, self.experts, self.dtype, self.routing, self.sms, self.zero_copy,
            self.pass_direction, self.alignment,
        ):  # fmt: skip
            for tokens, top_k in self._sizes(routing, experts, num_ranks):
                # Low latency copies expert-major rows, and what it quantizes: there it is off.
                copies = self.algorithm == "ll" and (layout == "em" or self.recipe.quantizes_dispatch)
                in_window = zero_copy and not copies
                case = Case(
                    self.algorithm, layout, tokens, hidden, top_k, experts, dtype, routing, sms, in_window,
                    num_ranks, seed, pass_direction, self.eager, self.budget,
                    alignment if layout == "em" else 1, self.overflow, num_teams, self.recipe,
                    self.mask, self.timeout_ns,
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
    check_spec(case.routing, case.experts)
    if case.row_bytes % 16:
        raise UsageError(
            f"--hidden {case.hidden}: a row of {case.dtype} has {case.row_bytes} bytes, expected a multiple "
            f"of 16"
        )
    if case.tokens < 1:
        raise UsageError(f"--tokens {case.tokens}: expected at least one token on some rank")
    if case.most_tokens > case.recipe.most_tokens:
        raise UsageError(
            f"--tokens {case.tokens}: expected at most {case.recipe.most_tokens // case.num_ranks} on "
            f"{case.num_ranks} ranks; verification cannot tell more apart"
        )
    if case.alignment & (case.alignment - 1):
        raise UsageError(f"--alignment {case.alignment}: expected a power of two")
    if 0 < case.budget < case.tokens:
        raise UsageError(f"--budget {case.budget}: expected at least the tokens of a rank, {case.tokens}")
    _check_recipe(case)


def _check_recipe(case: Case) -> None:
    recipe, quantizes = case.recipe, case.recipe.quantizes_dispatch or case.recipe.quantizes_combine
    if quantizes and case.dtype != "bf16":
        raise UsageError(f"--dtype {case.dtype}: expected bf16 with --recipe {recipe}")
    if recipe != NO_RECIPE and case.hidden % recipe.group:
        raise UsageError(
            f"--hidden {case.hidden}: expected a multiple of {recipe.group}, the elements that share a scale "
            f"with --recipe {recipe}"
        )
    for num_bytes in (case.sent.elements.num_bytes, case.returned.elements.num_bytes):
        if num_bytes % 16:
            raise UsageError(
                f"--hidden {case.hidden}: a row of --recipe {recipe} has {num_bytes} bytes, expected a "
                f"multiple of 16"
            )

# SPDX-License-Identifier: Apache-2.0
"""Exchanges whose rows travel with scales: given by the caller, or made on the way.

Scales go where rows go, so the oracle of rows says where they are. What dispatch sends is independent of the
problem's tokens, whose type combine's rows have. All is compared to the bit, but for sums of what combine
quantizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import fp8_oracle
import ht
import ht_oracle as oracle
import ml_dtypes
import nccl_ep as ep
import numpy as np
from ht import EM, Exchange, Mode, group_config
from ll import BF16, assert_same_bits
from nccl_ep import DataType, DispatchQuantizationRecipe
from oracle import Array, Problem, fma, in_groups

POISON = 0xA5  # of all bytes of the outputs

NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT32: np.dtype(np.float32),
    DataType.FLOAT16: np.dtype(np.float16),
    DataType.BFLOAT16: BF16,
    DataType.FLOAT8E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    DataType.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DataType.FLOAT4X2: np.dtype(np.uint8),
    DataType.UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Rows:
    """What dispatch is to send: rows of ``hidden`` elements with ``num_scales`` scales each.

    Attributes:
        quantizes: dispatch makes both, of bf16.
        rounds: ``round_scales``.
    """

    hidden: int
    num_scales: int
    dtype: DataType = DataType.FLOAT8E4M3
    scale_dtype: DataType = DataType.FLOAT32
    quantizes: bool = False
    rounds: bool = False

    def __str__(self) -> str:
        if self.quantizes:
            return f"quantized-h{self.hidden}" + ("-rounded" if self.rounds else "")
        return f"h{self.hidden}-{self.dtype.name.lower()}-{self.num_scales}x{self.scale_dtype.name.lower()}"

    @property
    def token_bytes(self) -> int:
        """Of a row with its scales."""
        return self.hidden * self.dtype.itemsize + self.num_scales * self.scale_dtype.itemsize

    @property
    def recipe(self) -> DispatchQuantizationRecipe:
        names = DispatchQuantizationRecipe
        return names.DS_FP8E3M4 if self.quantizes else names.FWD

    def given(self, problem: Problem, rank: int) -> tuple[Array, Array]:
        """Tokens and scales of a rank, as it gives them; any bytes, or bf16 of any size to be quantized."""
        random = np.random.default_rng([self.hidden, self.num_scales, rank])
        b = len(problem.tokens[rank])
        scales = _bytes(random, (b, self.num_scales), self.scale_dtype)
        if not self.quantizes:
            return _bytes(random, (b, self.hidden), self.dtype), scales
        sizes = np.exp2(random.integers(-30, 30, (b, self.num_scales, 1)))
        values = random.standard_normal((b, self.num_scales, fp8_oracle.GROUP)) * sizes
        values[:1, 0], values[1:2, -1, 5], values[2:3, -1, 7] = 0, np.inf, np.nan
        return values.reshape(b, self.hidden).astype(BF16), scales

    def sent(self, problem: Problem, rank: int) -> tuple[Array, Array]:
        """The same as they arrive."""
        rows, scales = self.given(problem, rank)
        return quantized(rows, rounded=self.rounds) if self.quantizes else (rows, scales)


def quantized(elements: Array, *, rounded: bool) -> tuple[Array, Array]:
    """E4M3 rows and their scales, to the bit as the library rounds them."""
    groups = in_groups(elements, fp8_oracle.GROUP).astype(np.float32)
    most = np.maximum(np.abs(groups).max(axis=-1), np.float32(fp8_oracle.LEAST_MAGNITUDE))
    scales = np.where(np.isnan(most), np.float32(np.inf), most) * np.float32(1 / fp8_oracle.LARGEST)
    if rounded:
        bits = scales.view(np.uint32)
        scales = ((bits + np.uint32(0x7FFFFF)) & ~np.uint32(0x7FFFFF)).view(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = (groups * (np.float32(1) / scales)[..., None]).reshape(elements.shape)
    rows = np.clip(numbers, -fp8_oracle.LARGEST, fp8_oracle.LARGEST).astype(ml_dtypes.float8_e4m3fn)
    rows[np.isnan(numbers)] = np.nan
    fp8_oracle.assert_quantized(elements, rows, scales, rounded=rounded)
    return rows, scales


def quantized_rows(hidden: int, *, rounds: bool = False) -> Rows:
    """Rows that dispatch quantizes."""
    return Rows(hidden, hidden // fp8_oracle.GROUP, quantizes=True, rounds=rounds)


def _bytes(random: np.random.Generator, shape: tuple[int, int], dtype: DataType) -> Array:
    return random.integers(0, 256, (shape[0], shape[1] * dtype.itemsize), np.uint8).view(NUMPY[dtype])


class ScaledExchange(Exchange):
    """As its base, but dispatch sends rows with scales."""

    def __init__(self, rank: Any, problem: Problem, mode: Mode, rows: Rows) -> None:
        super().__init__(rank, problem, mode)
        self.rows = rows
        given = rows.given(problem, rank.rank)
        self.given_rows, self.given_scales = (rank.array(values) for values in given)
        num_rows = len(ht.poisoned(problem, rank.rank, mode).tokens)
        self.received, self.window = self._rows(_poisoned(num_rows, rows.hidden, rows.dtype))
        self.received_scales, self.scales_window = self._rows(
            _poisoned(num_rows, rows.num_scales, rows.scale_dtype)
        )

    def dispatch(self, handle: ep.Handle, stream: Any = None) -> None:
        rows, b = self.rows, len(self.problem.tokens[self.rank.rank])
        given_dtype = DataType.BFLOAT16 if rows.quantizes else rows.dtype
        tokens = ep.Tensor(self.given_rows, dtype=given_dtype, shape=(b, rows.hidden))
        scales = None if rows.quantizes else ep.Tensor(self.given_scales, dtype=rows.scale_dtype)
        received = ep.Tensor(self.received, dtype=rows.dtype, window=self.window)
        received_scales = ep.Tensor(self.received_scales, dtype=rows.scale_dtype, window=self.scales_window)
        inputs = ep.DispatchInputs(tokens, scales=scales)
        outputs = ep.DispatchOutputs(received, scales=received_scales)
        if not self.mode.backward:
            inputs = replace(inputs, topk_weights=self.topk_weights)
            idx = None if self.mode.layout is EM else self.received_idx
            outputs = replace(outputs, topk_weights=self.received_weights, topk_idx=idx)
        config = ep.DispatchConfig(
            round_scales=rows.rounds, pass_direction=self._direction(), quantization_recipe=rows.recipe
        )
        kind = ep.ExpertIdKind.GLOBAL if self.mode.global_ids else ep.ExpertIdKind.LOCAL
        info = ep.LayoutInfo(recv_topk_idx_kind=kind)
        handle.dispatch(inputs, outputs, layout_info=info, config=config, stream=stream)

    def results(self) -> dict[str, Array]:
        return super().results() | {"received_scales": self.rank.read(self.received_scales)}


def _poisoned(num_rows: int, width: int, dtype: DataType) -> Array:
    return np.full((num_rows, width * dtype.itemsize), POISON, np.uint8).view(NUMPY[dtype])


def exchange(rank: Any, problem: Problem, mode: Mode, rows: Rows, **config: Any) -> dict[str, Array]:
    """What a rank receives in one step."""
    with ep.Group(rank.comm, config_for(problem, mode, [rows], **config)) as group:
        mine = ScaledExchange(rank, problem, mode, rows)
        with mine.make_handle(group) as handle:
            mine.run(handle)
            return mine.results()


def config_for(problem: Problem, mode: Mode, rows: list[Rows], **changes: Any) -> ep.GroupConfig:
    """The smallest group that fits a problem and these rows."""
    least = group_config(problem, mode).max_token_bytes
    most = max(least, *(-(-some.token_bytes // 16) * 16 for some in rows))
    return group_config(problem, mode, **{"max_token_bytes": most, **changes})


def expected(problem: Problem, rank: int, mode: Mode, rows: Rows) -> dict[str, Array]:
    """What ``ScaledExchange.results`` must be on a rank after dispatch and combine."""
    wanted = ht.expected(problem, rank, mode)
    sent = [rows.sent(problem, r) for r in range(problem.num_ranks)]
    for name, part, width, dtype in (
        ("received", 0, rows.hidden, rows.dtype),
        ("received_scales", 1, rows.num_scales, rows.scale_dtype),
    ):
        other = replace(problem, tokens=[parts[part] for parts in sent])
        before = ht.poisoned(problem, rank, mode)
        before.tokens = _poisoned(len(before.tokens), width, dtype)
        if mode.layout is EM:
            out = oracle.dispatch_expert_major(other, rank, before, mode.alignment, mode.room)
        else:
            out = oracle.dispatch_flat(other, rank, before, mode.room)
        wanted[name] = out.tokens
    return wanted


def check(problem: Problem, mode: Mode, rows: Rows, results: list[dict[str, Array]]) -> None:
    """Compares what every rank has with what it must have, to the bit."""
    for rank, found in enumerate(results):
        for name, wanted in expected(problem, rank, mode, rows).items():
            assert_same_bits(found[name], wanted, f"rank {rank}: {name}")


def combine_quantized(
    rank: Any, problems: list[Problem], mode: Mode, **config: Any
) -> list[dict[str, Array]]:
    """Steps in one group whose combine sends FP8, and once more without: what a rank received of each."""
    with ep.Group(rank.comm, group_config(problems[0], mode, **config)) as group:
        exchanges = [Exchange(rank, problem, mode) for problem in problems]
        handles = [mine.make_handle(group) for mine in exchanges]
        for mine, handle in zip(exchanges, handles, strict=True):
            mine.dispatch(handle)
            mine.combine(handle)
            mine.combine(handle, recipe=ep.CombineQuantizationRecipe.FP8)
        return [mine.results() for mine in exchanges]


def check_combined(problems: list[Problem], mode: Mode, results: list[list[dict[str, Array]]]) -> None:
    """Compares what every rank has combined with the sums of quantized rows: within the stated error, and
    to the bit."""
    for i, problem in enumerate(problems):
        for rank, found in enumerate(results):
            what, sums = f"problem {i}, rank {rank}: combined", quantized_sums(problem, rank, mode)
            fp8_oracle.assert_sums(sums, found[i]["combined"], what)
            wanted = np.zeros_like(found[i]["combined"])
            for token, rows in enumerate(sums):
                if rows:
                    wanted[token] = _sum_of_quantized(rows)
            assert_same_bits(found[i]["combined"], wanted, what)


def _sum_of_quantized(rows: list[Array | list[Array]]) -> Array:
    """What the library adds up, in float32. Rows that another team has added up are quantized once more."""
    total = np.full_like(rows[0] if isinstance(rows[0], np.ndarray) else rows[0][0], -0.0, np.float32)
    for row in rows:
        numbers, scales = quantized(_sum_of_quantized(row) if isinstance(row, list) else row, rounded=False)
        total = fma(np.repeat(scales, fp8_oracle.GROUP), numbers.astype(np.float32), total)
    return total


def quantized_sums(
    problem: Problem, home: int, mode: Mode, without: tuple[int, ...] = ()
) -> list[list[Array | list[Array]]]:
    """What is added up for each token: the rows of the home rank's team, and each other team's sum of some.

    Without what some ranks send.
    """
    rows = [ht.expert_rows(problem, rank, mode) for rank in range(problem.num_ranks)]
    if mode.layout is EM:
        arrivals = oracle.arrivals_expert_major(problem, home, rows, mode.alignment, mode.room)
    else:
        arrivals = oracle.arrivals_flat(problem, home, rows, mode.room)
    team_size = mode.team_size or problem.num_ranks
    sums: list[list[Array | list[Array]]] = []
    for rows_of_token in arrivals:
        teams: dict[int, list[Array]] = {}
        for rank, row in rows_of_token:
            if rank not in without:
                teams.setdefault(rank // team_size, []).append(row)
        sums.append([*teams.pop(home // team_size, []), *teams.values()])
    return sums

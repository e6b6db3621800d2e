# SPDX-License-Identifier: Apache-2.0
"""What the tests of Low-Latency recipes share: what is sent, a rank's buffers for it, and the comparison.

Rows in any type and scales are random bytes, so whatever is out of place shows. Combine gets the random bf16
rows of :mod:`ll`, as after experts that have computed in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import fp8_oracle
import ml_dtypes
import nccl_ep as ep
import numpy as np
import oracle
from ll import (
    EM,
    Array,
    Exchange,
    Shape,
    assert_same_bits,
    expected,
    expert_rows,
    group_config,
    make_problem,
)
from nccl_ep.dtypes import DataType
from oracle import Problem, in_groups

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
POISON_BYTE = 0xB3


@dataclass(frozen=True)
class Forwarded:
    """Rows that the caller has quantized: ``row_bytes`` of a data type, and ``num_scales`` of another."""

    dtype: DataType
    row_bytes: int
    scale_dtype: DataType
    num_scales: int

    def __str__(self) -> str:
        return f"{self.dtype.name}-{self.row_bytes}B-{self.num_scales}x{self.scale_dtype.name}".lower()

    @property
    def row(self) -> tuple[int, DataType]:
        return self.row_bytes // self.dtype.itemsize, self.dtype

    @property
    def scales(self) -> tuple[int, DataType]:
        return self.num_scales, self.scale_dtype

    @property
    def config(self) -> ep.DispatchConfig:
        return ep.DispatchConfig(quantization_recipe=ep.DispatchQuantizationRecipe.FWD)


@dataclass(frozen=True)
class Quantized:
    """bf16 rows that dispatch quantizes."""

    hidden: int
    rounded: bool = False

    def __str__(self) -> str:
        return f"h{self.hidden}" + ("-rounded" if self.rounded else "")

    @property
    def row(self) -> tuple[int, DataType]:
        return self.hidden, DataType.FLOAT8E4M3

    @property
    def scales(self) -> tuple[int, DataType]:
        return self.hidden // fp8_oracle.GROUP, DataType.FLOAT32

    @property
    def config(self) -> ep.DispatchConfig:
        recipe = ep.DispatchQuantizationRecipe.DS_FP8E3M4
        return ep.DispatchConfig(quantization_recipe=recipe, round_scales=self.rounded)


Recipe = Forwarded | Quantized


@dataclass(frozen=True)
class Sent:
    """What all ranks dispatch: ``rows[rank]`` and ``scales[rank]`` as bytes, or the problem's tokens."""

    problem: Problem
    recipe: Recipe
    rows: list[Array]
    scales: list[Array]

    def token_bytes(self) -> int:
        (width, dtype), (num_scales, scale_dtype) = self.recipe.row, self.recipe.scales
        return width * dtype.itemsize + num_scales * scale_dtype.itemsize

    def group_config(self, **changes: Any) -> ep.GroupConfig:
        config = group_config(self.problem)
        return replace(config, max_token_bytes=max(config.max_token_bytes, self.token_bytes()), **changes)

    def arriving(self, what: list[Array]) -> Problem:
        """The problem with other tokens."""
        return replace(self.problem, tokens=what)


def make_sent(recipe: Recipe, shape: Shape, seed: int) -> Sent:
    """Random rows for a recipe. Where they are quantized, some groups are zero, tiny or huge."""
    random = np.random.default_rng([seed, 1])
    if isinstance(recipe, Quantized):
        problem = make_problem(replace(shape, hidden=recipe.hidden), seed)
        for tokens in problem.tokens:
            groups = in_groups(tokens, fp8_oracle.GROUP)
            sizes = np.exp2(random.integers(-40, 40, groups.shape[:-1]))
            sizes[random.random(sizes.shape) < 0.2] = 0
            groups[...] = (groups.astype(np.float64) * sizes[..., None]).astype(tokens.dtype)
        return Sent(problem, recipe, problem.tokens, [])
    problem = make_problem(shape, seed)
    counts = [len(tokens) for tokens in problem.tokens]
    return Sent(
        problem,
        recipe,
        [random.integers(0, 256, (count, recipe.row_bytes), np.uint8) for count in counts],
        [random.integers(0, 256, (count, _bytes_of(recipe.scales)), np.uint8) for count in counts],
    )


class RecipeExchange(Exchange):
    """One rank's buffers, poisoned; ``dispatch`` is by the recipe."""

    def __init__(self, rank: Any, sent: Sent, layout: ep.Layout, *, windows: bool = False) -> None:
        super().__init__(rank, sent.problem, layout)
        self.sent = sent
        self.rows = rank.array(sent.rows[rank.rank])
        self.scales = rank.array(sent.scales[rank.rank]) if sent.scales else None
        zones = self.received.shape[:2]
        self.received = rank.array(np.full((*zones, _bytes_of(sent.recipe.row)), POISON_BYTE, np.uint8))
        scales = np.full((*zones, _bytes_of(sent.recipe.scales)), POISON_BYTE, np.uint8)
        self.scales_window = None
        if windows:
            self.received_scales, self.scales_window = rank.symmetric(scales)
        else:
            self.received_scales = rank.array(scales)

    def dispatch(
        self, handle: ep.Handle, stream: Any = None, *, send_only: bool = False, global_ids: bool = False
    ) -> None:
        recipe = self.sent.recipe
        rows, scales = (
            (self.rows, None)
            if isinstance(recipe, Quantized)
            else (_tensor(self.rows, recipe.row), _tensor(self.scales, recipe.scales))
        )
        received = _tensor(self.received, recipe.row, self.window)
        received_scales = _tensor(self.received_scales, recipe.scales, self.scales_window)
        if self.layout is EM:
            inputs = ep.DispatchInputs(rows, scales=scales)
            outputs = ep.DispatchOutputs(received, scales=received_scales)
            info = ep.LayoutInfo(expert_counters=self.counters)
        else:
            inputs = ep.DispatchInputs(rows, self.topk_weights, scales)
            outputs = ep.DispatchOutputs(received, self.received_weights, received_scales, self.received_idx)
            info = ep.LayoutInfo(src_rank_counters=self.counters)
        config = replace(recipe.config, send_only=send_only)
        handle.dispatch(inputs, outputs, layout_info=info, config=config, stream=stream)

    def results(self) -> dict[str, Array]:
        return super().results() | {"received_scales": self.rank.read(self.received_scales)}


def exchange_by_recipe(
    rank: Any, sent: Sent, layout: ep.Layout, *, windows: bool = False, halves: bool = False, **config: Any
) -> dict[str, Array]:
    """One dispatch by a recipe and a combine, in a group of their own: what a rank received."""
    with ep.Group(rank.comm, sent.group_config(**config)) as group:
        mine = RecipeExchange(rank, sent, layout, windows=windows)
        with mine.make_handle(group) as handle:
            mine.dispatch(handle, send_only=halves)
            handle.complete()
            mine.combine(handle)
            return mine.results()


def combine_quantized(
    rank: Any, problem: Problem, layout: ep.Layout, *, halves: bool = False
) -> dict[str, Array]:
    """One plain dispatch and a combine whose rows travel as FP8, in a group of their own."""
    with ep.Group(rank.comm, group_config(problem)) as group:
        mine = Exchange(rank, problem, layout)
        with mine.make_handle(group) as handle:
            mine.dispatch(handle)
            mine.combine(handle, send_only=halves, recipe=ep.CombineQuantizationRecipe.FP8)
            handle.complete()
            return mine.results()


def check_combined(problem: Problem, layout: ep.Layout, results: list[dict[str, Array]]) -> None:
    """Compares what every rank has combined with the sums of quantized rows."""
    rows = [expert_rows(problem, rank, layout) for rank in range(problem.num_ranks)]
    sums_of = oracle.sums_expert_major if layout is EM else oracle.rows_rank_major
    for rank, found in enumerate(results):
        fp8_oracle.assert_sums(sums_of(problem, rank, rows), found["combined"], f"rank {rank}: combined")


def check_recipe(sent: Sent, layout: ep.Layout, results: list[dict[str, Array]]) -> None:
    """Compares what every rank has with what it must have."""
    for rank, found in enumerate(results):
        for name, wanted in expected(sent.problem, rank, layout).items():
            if name != "received":
                assert_same_bits(found[name], wanted, f"rank {rank}: {name}")
        if isinstance(sent.recipe, Quantized):
            _check_quantized(sent, layout, rank, found)
        else:
            for name, what in (("received", sent.rows), ("received_scales", sent.scales)):
                wanted = _arrived(sent.arriving(what), rank, layout, np.full_like(found[name], POISON_BYTE))
                assert_same_bits(found[name], wanted, f"rank {rank}: {name}")


def _check_quantized(sent: Sent, layout: ep.Layout, rank: int, found: dict[str, Array]) -> None:
    problem = sent.problem
    shape = found["received"].shape
    elements = _arrived(problem, rank, layout, np.zeros(shape, problem.dtype))
    numbers = [np.ones((len(tokens), 1), np.uint8) for tokens in problem.tokens]
    taken = _arrived(sent.arriving(numbers), rank, layout, np.zeros((*shape[:2], 1), np.uint8))[..., 0] == 1
    for name in ("received", "received_scales"):
        assert (found[name][~taken] == POISON_BYTE).all(), f"rank {rank}: {name} of no token"
    fp8_oracle.assert_quantized(
        elements[taken],
        found["received"][taken].view(E4M3),
        found["received_scales"][taken].view(np.float32),
        rounded=sent.recipe.config.round_scales,
        what=f"rank {rank}:",
    )


def _arrived(problem: Problem, rank: int, layout: ep.Layout, before: Array) -> Array:
    if layout is EM:
        return oracle.dispatch_expert_major(problem, rank, before)[0]
    slots = (problem.num_ranks, problem.max_tokens, problem.num_topk)
    return oracle.dispatch_rank_major(problem, rank, before, np.zeros(slots, np.float32)).tokens


def _bytes_of(row: tuple[int, DataType]) -> int:
    return row[0] * row[1].itemsize


def _tensor(memory: Any, row: tuple[int, DataType], window: Any = None) -> ep.Tensor:
    """Bytes as a tensor of some type."""
    return ep.Tensor(ep.Tensor(memory).ptr, dtype=row[1], shape=(*memory.shape[:-1], row[0]), window=window)

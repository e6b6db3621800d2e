# SPDX-License-Identifier: Apache-2.0
"""Cases, rows and a device in plain memory, for tests of ep_bench that need no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ep_bench.buffers import Buffers
from ep_bench.cases import Case
from ep_bench.inputs import Inputs
from ep_bench.library import Library
from ep_bench.recipes import GROUP, NVFP4_GROUP
from ep_bench.rows import Measured, Routed, Row, Setup, make_row
from ep_bench.tokens import Rows

Array = npt.NDArray[Any]

CASE = Case("ll", "em", 6, 32, 3, 8, "bf16", "uniform", 0, False, 4, 5)
SETUP = Setup("cuda", 4, 4, 1, "4 x Some GPU", {"nccl_ep": "0.2.0", "NCCL": "2.30.7"}, {0: 345.0}, ["a note"])
LIBRARY = Library("nccl_ep", "0.2.0", None, None, ordered=True)  # type: ignore[arg-type]


def named(kind: dict[str, Any]) -> str:
    """A name for a test of a case with these changes."""
    return "-".join(map(str, kind.values()))


def case(**changes: Any) -> Case:
    """The usual case with changes."""
    return replace(CASE, **changes)


def row(
    of: Case = CASE, op: str = "dispatch", mode: str = "graph", *, library: str = "nccl_ep", **found: Any
) -> Row:
    """A row of the table; ``found`` are fields of Measured."""
    measured = Measured(**{"verified": True, "p50_us": 10.0, "p99_us": 12.0, **found})
    return make_row(SETUP, of, op, mode, replace(LIBRARY, name=library), measured, Routed(1000.0, 1100.0))


def quantized(rows: Array) -> Rows:
    """Rows as E4M3 with scales, as the library makes them."""
    groups = rows.astype(np.float32).reshape(len(rows), rows.shape[1] // GROUP, GROUP)
    scales = np.maximum(np.abs(groups).max(axis=2), np.float32(1e-4)) / np.float32(448)
    elements = (groups / scales[..., None]).astype(ml_dtypes.float8_e4m3fn)
    return Rows(elements.reshape(rows.shape), scales)


def through_nvfp4(rows: Array, limits: Array) -> Array:
    """Rows as they come back, with global scales that stand for these magnitudes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        groups = rows.reshape(len(rows), -1, NVFP4_GROUP) * (2688 / limits[:, None, None])
        scales = (np.abs(groups).max(axis=2, keepdims=True) / 6).astype(ml_dtypes.float8_e4m3fn)
        numbers = np.clip(groups / scales.astype(np.float32), -6, 6).astype(ml_dtypes.float4_e2m1fn)
        back = numbers.astype(np.float32) * scales.astype(np.float32) * (limits[:, None, None] / 2688)
    return np.where(limits[:, None] == 0, 0, back.reshape(rows.shape)).astype(np.float32)


class HostDevice:
    """Plain memory behind ep_bench's face of a device."""

    kind = "sim"
    stream = None

    def fill(self, array: Array, byte: int, first: int, count: int) -> None:
        array.reshape(-1)[first : first + count].view(np.uint8)[:] = byte

    def write(self, array: Array, values: Array, first: int = 0) -> None:
        array.reshape(-1)[first : first + values.size] = values.reshape(-1)

    def read(self, array: Array, first: int, shape: Sequence[int]) -> Array:
        return np.array(array.reshape(-1)[first : first + int(np.prod(shape))].reshape(shape))

    def synchronize(self) -> None:
        pass


class HostMemory:
    """Room for arrays in plain memory."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def window(self, shape: Sequence[int], dtype: Any) -> tuple[Array, Any]:
        return self.empty(shape, dtype), object()


class World:
    """All ranks' buffers of a case, poisoned, with update, dispatch and combine done right by NumPy."""

    def __init__(self, of: Case) -> None:
        self.case, self.inputs, self.device = of, Inputs(of), HostDevice()
        self.buffers = [
            Buffers(of, self.inputs, self.device, HostMemory(), rank)  # type: ignore[arg-type]
            for rank in range(of.num_ranks)
        ]
        for buffers in self.buffers:
            buffers.poison()

    def count(self) -> None:
        """What update does in high throughput, and in low latency dispatch."""
        for rank, buffers in enumerate(self.buffers):
            for name, values in self.inputs.zones.counters(rank).items():
                buffers.counters[name][:] = values

    def dispatch(self) -> None:
        if self.case.algorithm == "ll":
            self.count()
        for rank, buffers in enumerate(self.buffers):
            if self.case.layout == "rm":
                buffers.received_idx[:] = -1
            for number, zone in enumerate(self.inputs.zones.of_rank(rank)):
                end = zone.first + len(zone.tokens)
                for array, part in zip(self.received(rank), self._arriving(zone.tokens).parts, strict=True):
                    array[zone.first : end] = part
                    array[end : end + zone.padding] = 0
                for place, token in enumerate(zone.tokens, zone.first):
                    if buffers.received_weights is not None:
                        self._give_routes(rank, number, place, int(token))

    def received(self, rank: int) -> list[Array]:
        """A rank's rows, and their scales if they have some, as arrays of rows."""
        arrays = (self.buffers[rank].received, self.buffers[rank].received_scales)
        return [array.reshape(-1, array.shape[-1]) for array in arrays if array is not None]

    def _arriving(self, token_ids: Array) -> Rows:
        sent = self.inputs.tokens.rows(token_ids)
        return quantized(sent.elements) if self.case.recipe.quantizes_dispatch else sent

    def rows(self, array: Array) -> Array:
        """An array of zones as an array of rows."""
        return array.reshape(-1, self.case.hidden)

    def _give_routes(self, rank: int, zone: int, place: int, token: int) -> None:
        buffers, first = self.buffers[rank], rank * self.case.local_experts
        routing = self.inputs.routing[token // self.case.tokens]
        ids, weights = (table[token % self.case.tokens] for table in (routing.topk_idx, routing.topk_weights))
        here = (ids >= 0) & (ids // self.case.local_experts == rank)
        if self.case.layout == "em":
            buffers.received_weights[place] = weights[ids == first + zone][0]
            return
        order = np.arange(self.case.top_k)
        if self.case.layout == "fl":  # those that are here, by their number
            order = np.array(sorted(order, key=lambda k: (not here[k], ids[k])))
        idx_table = buffers.received_idx.reshape(-1, self.case.top_k)
        weights_table = buffers.received_weights.reshape(-1, self.case.top_k)
        idx_table[place] = np.where(here, ids - first, -1)[order]
        weights_table[place] = np.where(here, weights, 0)[order]

    def combine(self) -> None:
        """As the library does: each rank's part is rounded to the type, unless sums are exact, then parts are
        added; in high throughput, those of each other LSA team are first added there, and rounded or
        quantized once more."""
        for home, buffers in enumerate(self.buffers):
            total = np.zeros(buffers.combined.shape, np.float32)
            if buffers.combined_weights is not None:
                buffers.combined_weights[:] = 0
            size = self.case.team_size if self.case.algorithm == "ht" else self.case.num_ranks
            home_team = home // size
            total += self._team_part(home, home_team * size, size)
            for team in range(self.case.num_ranks // size):
                if team != home_team:
                    total += self._sent(self._team_part(home, team * size, size))
            buffers.combined[:] = total.astype(self.inputs.dtype)

    def _team_part(self, home: int, first: int, size: int) -> Array:
        """The sum of what these ranks send home."""
        parts = [self._part(home, rank).astype(np.float32) for rank in range(first, first + size)]
        return np.asarray(sum(parts))

    def _part(self, home: int, rank: int) -> Array:
        """What a rank sends home. Rows of a token come in the order of its experts."""
        buffers, first = self.buffers[rank], home * self.case.tokens
        rows = self.rows(buffers.expert_rows)
        part = np.zeros((self.inputs.num_tokens(home), self.case.hidden), np.float32)
        limits = np.zeros(len(part), np.float32)
        for number, zone in enumerate(self.inputs.zones.of_rank(rank)):
            for place, token in enumerate(zone.tokens - first, zone.first):
                if 0 <= token < self.case.tokens:
                    weight = self._weight(home, rank, number, token)
                    part[token] += weight * rows[place].astype(np.float32)
                    if buffers.global_scales is not None:
                        limits[token] += weight * 2688 / buffers.global_scales.reshape(-1)[place]
                    if buffers.expert_weights is not None:
                        self._give_gradients(home, rank, number, token, buffers.expert_weights[place])
        if self.case.recipe.has_global_scales:
            return through_nvfp4(part, limits)
        return part if self.case.recipe.exact else self._sent(part)

    def _sent(self, part: Array) -> Array:
        """A part as it travels."""
        if not self.case.recipe.quantizes_combine:
            return part.astype(self.inputs.dtype)
        elements, scales = quantized(part)
        return np.asarray(elements.astype(np.float32) * np.repeat(scales, GROUP, axis=1))

    def _give_gradients(self, home: int, rank: int, zone: int, token: int, gradients: Array) -> None:
        ids, found = self.inputs.routing[home].topk_idx[token], self.buffers[home].combined_weights[token]
        first = rank * self.case.local_experts
        if self.case.layout == "em":
            found[ids == first + zone] = gradients
        else:
            here = sorted(expert for expert in ids if first <= expert < first + self.case.local_experts)
            for expert, gradient in zip(here, gradients, strict=False):
                found[ids == expert] = gradient

    def _weight(self, home: int, rank: int, zone: int, token: int) -> Any:
        if (self.case.algorithm, self.case.layout) != ("ll", "em"):
            return np.float32(1)
        routing, expert = self.inputs.routing[home], rank * self.case.local_experts + zone
        return routing.topk_weights[token][routing.topk_idx[token] == expert][0]

# SPDX-License-Identifier: Apache-2.0
"""One rank's device memory for one case."""

from __future__ import annotations

from typing import Any

import numpy as np

from ep_bench.cases import Case
from ep_bench.devices.face import Device, Memory, poison
from ep_bench.formats import Part
from ep_bench.inputs import Inputs
from ep_bench.tokens import Rows, global_scales
from ep_bench.zones import fixed_zones


class Buffers:
    """Inputs, filled, and outputs of dispatch and combine.

    Combine's input does not come from dispatch but is fixed: a row's contents tell its place, unused rows are
    NaN. So every call can be repeated alone, and a row taken from the wrong place shows.

    Rows of outputs are counted through all zones. What a layout or pass does not have is None.

    Attributes:
        tokens, scales: what is sent; scales are None where rows have none, here and below.
        received: dispatch's rows, ``[zones, rows, H]``, or in high throughput ``[rows, H]``.
        received_scales: beside them, ``[zones, rows, scales]`` or ``[rows, scales]``.
        window, scales_window: the windows of those two, or None.
        counters: what counts rows, by the names that a layout info has for them.
        received_idx, received_weights: what dispatch says of each row.
        expert_rows: combine's input, like ``received``.
        expert_window: its window, or None.
        global_scales: of those rows, where combine takes them, ``[zones, rows, 1]``.
        expert_weights: backward: the gradients of ``received_weights``.
        combined: combine's output, ``[b, H]``.
        combined_weights: backward: the gradients of ``topk_weights``, ``[b, K]``.
    """

    def __init__(self, case: Case, inputs: Inputs, device: Device, memory: Memory, rank: int) -> None:
        self._device = device
        self._case, self._inputs, self._rank = case, inputs, rank
        self._zones = inputs.zones.of_rank(rank)
        routing = inputs.routing[rank]
        rows = fixed_zones(case) if case.algorithm == "ll" else (inputs.zones.num_rows,)
        backward = case.pass_direction == "bwd"
        sent = inputs.tokens.rows(inputs.token_ids(rank))
        self.tokens = self._filled(memory, sent.elements)
        self.scales = None if sent.scales is None else self._filled(memory, sent.scales)
        self.topk_idx = self._filled(memory, routing.topk_idx)
        self.topk_weights = self._filled(memory, routing.topk_weights)
        received = case.received
        self.received, self.window = _rows(memory, rows, received.elements, case.zero_copy)
        self.received_scales, self.scales_window = _rows(memory, rows, received.scales, case.zero_copy)
        counters = inputs.zones.counters(rank)
        self.counters = {name: memory.empty(value.shape, value.dtype) for name, value in counters.items()}
        weights = {"em": rows, "rm": (*rows, case.top_k), "fl": (*rows, case.top_k)}[case.layout]
        has_weights = not backward and (case.algorithm, case.layout) != ("ll", "em")
        self.received_weights = memory.empty(weights, np.float32) if has_weights else None
        idx_dtype = np.int32 if case.algorithm == "ll" else np.int64
        has_idx = has_weights and case.layout != "em"
        self.received_idx = memory.empty(weights, idx_dtype) if has_idx else None
        in_window = case.zero_copy and case.algorithm == "ht"
        self.expert_rows, self.expert_window = _rows(memory, rows, case.numbers, in_window)
        self.combined = memory.empty((inputs.num_tokens(rank), case.hidden), inputs.dtype)
        self.global_scales = None
        if case.recipe.has_global_scales:
            self.global_scales = memory.empty((*rows, 1), np.float32)
        self.expert_weights = memory.empty(weights, np.float32) if backward else None
        self.combined_weights = memory.empty(routing.topk_weights.shape, np.float32) if backward else None
        self._fill_expert_rows()

    def poison(self) -> None:
        """Spoils all outputs, as far as anybody looks at them. Peers may not be writing meanwhile."""
        for first, count in self._ranges():
            for array in self._received_parts:
                poison(self._device, array, first * array.shape[-1], count * array.shape[-1])
        others = (
            *self.counters.values(), self.received_idx, self.received_weights, self.combined,
            self.combined_weights,
        )  # fmt: skip
        for array in others:
            if array is not None:
                poison(self._device, array)
        self._device.synchronize()

    def read_received(self, first: int, count: int) -> Rows:
        """A copy of some rows of dispatch's output, with their scales."""

        def read(array: Any) -> Any:
            width = array.shape[-1]
            return self._device.read(array, first * width, (count, width))

        return Rows(*(read(array) for array in self._received_parts))

    @property
    def _received_parts(self) -> list[Any]:
        return [array for array in (self.received, self.received_scales) if array is not None]

    def _ranges(self) -> list[tuple[int, int]]:
        """First row and number of rows of what is looked at in an output."""
        if self._case.algorithm == "ht":
            return [(0, self._inputs.zones.num_rows)]
        return [(zone.first, zone.num_rows) for zone in self._zones]

    def _fill_expert_rows(self) -> None:
        hidden, per_row = self._case.hidden, 1 if self._case.layout == "em" else self._case.top_k
        for first, count in self._ranges():
            self._device.fill(self.expert_rows, 0xFF, first * hidden, count * hidden)
            if self.global_scales is not None:
                self._device.fill(self.global_scales, 0xFF, first, count)
            if self.expert_weights is not None:
                self._device.fill(self.expert_weights, 0xFF, first * per_row, count * per_row)
        self._device.synchronize()
        for zone in self._zones:
            numbers = zone.first + np.arange(len(zone.tokens))
            rows = self._inputs.expert_rows(self._rank, numbers)
            self._device.write(self.expert_rows, rows, zone.first * hidden)
            if self.global_scales is not None:
                self._device.write(self.global_scales, global_scales(rows), zone.first)
            if self.expert_weights is not None:
                weights = self._inputs.expert_weights(self._rank, numbers)[:, :per_row]
                self._device.write(self.expert_weights, weights, zone.first * per_row)

    def _filled(self, memory: Memory, values: Any) -> Any:
        array = memory.empty(values.shape, values.dtype)
        self._device.write(array, values)
        return array


def _rows(memory: Memory, rows: tuple[int, ...], part: Part | None, in_window: bool) -> tuple[Any, Any]:
    """Room for a part of rows, and its window; None for what there is not."""
    if part is None:
        return None, None
    shape = (*rows, part.width)
    return memory.window(shape, part.dtype) if in_window else (memory.empty(shape, part.dtype), None)

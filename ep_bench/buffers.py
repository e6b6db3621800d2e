# SPDX-License-Identifier: Apache-2.0
"""One rank's device memory for one case."""

from __future__ import annotations

from typing import Any

import numpy as np

from ep_bench.cases import Case
from ep_bench.devices.face import Device, Memory, poison
from ep_bench.inputs import Inputs


class Buffers:
    """Inputs, filled, and outputs of dispatch and combine.

    Combine's input does not come from dispatch but is fixed: a row's contents tell its place, unused rows are
    NaN. So every call can be repeated alone, and a row taken from the wrong place shows.

    Attributes:
        received: dispatch's rows, ``[zones, rows, H]``.
        window: the window of ``received``, or None.
        counters: rows received in each zone.
        received_idx, received_weights: rank-major only.
        expert_rows: combine's input, ``[zones, rows, H]``.
        combined: combine's output, ``[b, H]``.
    """

    def __init__(self, case: Case, inputs: Inputs, device: Device, memory: Memory, rank: int) -> None:
        self._device = device
        self._case, self._inputs, self._rank = case, inputs, rank
        routing = inputs.routing[rank]
        zones = (case.num_zones, case.zone_rows)
        self.tokens = self._filled(memory, inputs.token_rows(inputs.token_ids(rank)))
        self.topk_idx = self._filled(memory, routing.topk_idx)
        self.topk_weights = self._filled(memory, routing.topk_weights)
        self.window: Any = None
        if case.zero_copy:
            self.received, self.window = memory.window((*zones, case.hidden), inputs.dtype)
        else:
            self.received = memory.empty((*zones, case.hidden), inputs.dtype)
        self.counters = memory.empty((case.num_zones,), np.int32)
        if case.layout == "rm":
            self.received_idx = memory.empty((*zones, case.top_k), np.int32)
            self.received_weights = memory.empty((*zones, case.top_k), np.float32)
        self.expert_rows = memory.empty((*zones, case.hidden), inputs.dtype)
        self.combined = memory.empty((inputs.num_tokens(rank), case.hidden), inputs.dtype)
        self._fill_expert_rows()

    def poison(self) -> None:
        """Spoils all outputs, as far as anybody looks at them. Peers may not be writing meanwhile."""
        for zone in range(self._case.num_zones):
            first, count = self.checked_rows(zone)
            poison(self._device, self.received, first * self._case.hidden, count * self._case.hidden)
        poison(self._device, self.counters)
        poison(self._device, self.combined)
        if self._case.layout == "rm":
            poison(self._device, self.received_idx)
            poison(self._device, self.received_weights)
        self._device.synchronize()

    def checked_rows(self, zone: int) -> tuple[int, int]:
        """First row and number of rows of a zone that are looked at: the used ones, and one that is not."""
        used = len(self._inputs.zone_tokens(self._rank, zone))
        return zone * self._case.zone_rows, min(used + 1, self._case.zone_rows)

    def _fill_expert_rows(self) -> None:
        case = self._case
        for zone in range(case.num_zones):
            first, count = self.checked_rows(zone)
            used = len(self._inputs.zone_tokens(self._rank, zone))
            self._device.fill(self.expert_rows, 0xFF, first * case.hidden, count * case.hidden)
            self._device.synchronize()
            rows = self._inputs.expert_rows(self._rank, zone, np.arange(used))
            self._device.write(self.expert_rows, rows, first * case.hidden)

    def _filled(self, memory: Memory, values: Any) -> Any:
        array = memory.empty(values.shape, values.dtype)
        self._device.write(array, values)
        return array

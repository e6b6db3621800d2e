# SPDX-License-Identifier: Apache-2.0
"""Cases, rows and a device in plain memory, for tests of ep_bench that need no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.buffers import Buffers
from ep_bench.cases import Case
from ep_bench.inputs import Inputs
from ep_bench.rows import Measured, Row, Setup, make_row
from ep_bench.subject import Library

Array = npt.NDArray[Any]

CASE = Case("ll", "em", 6, 32, 3, 8, "bf16", "uniform", 0, False, 4, 5)
SETUP = Setup("cuda", 4, 4, 1, "4 x Some GPU", {"nccl_ep": "0.2.0", "NCCL": "2.30.7"}, 345.0, ["a note"])
LIBRARY = Library("nccl_ep", "0.2.0", None, None, ordered=True)  # type: ignore[arg-type]


def case(**changes: Any) -> Case:
    """The usual case with changes."""
    return replace(CASE, **changes)


def row(
    of: Case = CASE, op: str = "dispatch", mode: str = "graph", *, library: str = "nccl_ep", **found: Any
) -> Row:
    """A row of the table; ``found`` are fields of Measured."""
    measured = Measured(**{"verified": True, "p50_us": 10.0, "p99_us": 12.0, **found})
    return make_row(SETUP, of, op, mode, replace(LIBRARY, name=library), measured, 1000.0, 1100.0)


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
    """All ranks' buffers of a case, poisoned, with dispatch and combine done right by NumPy."""

    def __init__(self, of: Case) -> None:
        self.case, self.inputs, self.device = of, Inputs(of), HostDevice()
        self.buffers = [
            Buffers(of, self.inputs, self.device, HostMemory(), rank)  # type: ignore[arg-type]
            for rank in range(of.num_ranks)
        ]
        for buffers in self.buffers:
            buffers.poison()

    def dispatch(self) -> None:
        for rank, buffers in enumerate(self.buffers):
            if self.case.layout == "rm":
                buffers.received_idx[:] = -1
            for zone in range(self.case.num_zones):
                ids = self.inputs.zone_tokens(rank, zone)
                buffers.received[zone, : len(ids)] = self.inputs.token_rows(ids)
                buffers.counters[zone] = len(ids)
                if self.case.layout == "rm":
                    self._give_routes(rank, zone, ids - zone * self.case.tokens)

    def _give_routes(self, rank: int, source: int, tokens: Array) -> None:
        routing, first = self.inputs.routing[source], rank * self.case.local_experts
        here = self.inputs.is_local(source, rank)[tokens]
        idx, weights = self.buffers[rank].received_idx, self.buffers[rank].received_weights
        idx[source, : len(tokens)] = np.where(here, routing.topk_idx[tokens] - first, -1)
        weights[source, : len(tokens)] = np.where(here, routing.topk_weights[tokens], 0)

    def combine(self) -> None:
        """As the library does: each rank's part is rounded to the type, then parts are added."""
        for home, buffers in enumerate(self.buffers):
            ids = self.inputs.token_ids(home)
            total = np.zeros(buffers.combined.shape, np.float32)
            for rank in range(self.case.num_ranks):
                total += self._part(home, rank, ids).astype(np.float32)
            buffers.combined[:] = total.astype(self.inputs.dtype)

    def _part(self, home: int, rank: int, ids: Array) -> Array:
        part = np.zeros((len(ids), self.case.hidden), np.float32)
        for zone in range(self.case.num_zones):
            rows = self.buffers[rank].expert_rows[zone].astype(np.float32)
            for place, token in enumerate(self.inputs.zone_tokens(rank, zone)):
                if token in ids:
                    part[token - ids[0]] += self._weight(home, rank, zone, token - ids[0]) * rows[place]
        return part.astype(self.inputs.dtype)

    def _weight(self, home: int, rank: int, zone: int, token: int) -> Any:
        if self.case.layout == "rm":
            return np.float32(1)
        routing, expert = self.inputs.routing[home], rank * self.case.local_experts + zone
        return routing.topk_weights[token][routing.topk_idx[token] == expert][0]

# SPDX-License-Identifier: Apache-2.0
"""Subject: one library, set up for one case on one rank."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import nccl_ep
import numpy as np
from nccl_ep._ffi import NULL, ffi
from nccl_ep.plan import LAYOUTS

from ep_bench.arguments import (
    combine_arguments,
    dispatch_arguments,
    group_config,
    handle_config,
    update_info,
)
from ep_bench.buffers import Buffers
from ep_bench.calls import Call
from ep_bench.cases import Case
from ep_bench.devices.face import Device, Peers
from ep_bench.expect import WrongData
from ep_bench.inputs import inputs_of
from ep_bench.library import Library
from ep_bench.operations import Operation, make
from ep_bench.oracle import Combined, ZoneTokens, combined
from ep_bench.verify import check_combine, check_counters, check_dispatch


class Subject:
    """A group, a handle, buffers, and the three calls bound to them. Making and closing it is collective.

    Attributes:
        library, case, device, peers: what it was made of.
        update, dispatch, combine: the calls, put on the device's stream.
        alternates: whether dispatch and combine are called in turn.
    """

    def __init__(self, library: Library, case: Case, device: Device, peers: Peers) -> None:
        self.library = library
        self.inputs = inputs_of(case)
        self.alternates = case.algorithm == "ht"
        self.case, self.device, self.peers = case, device, peers
        self._zones: list[ZoneTokens] = []
        self._combined: Combined | None = None
        self._stack = ExitStack()
        try:
            self._set_up()
        except nccl_ep.Error:
            self._stack.close()
            raise

    def _set_up(self) -> None:
        communicator = self.library.communicator
        self._memory = memory = self.device.memory(communicator)
        self._stack.callback(memory.close)
        self.buffers = Buffers(self.case, self.inputs, self.device, memory, self.peers.rank)
        self._group = self._stack.enter_context(
            nccl_ep.Group(
                communicator,
                group_config(self.case, self.inputs.zones.budget),
                stream=self.device.stream,
                library=self.library.code,
            )
        )
        layout, config = LAYOUTS[self.case.layout], handle_config(self.case)
        self._handle = self._stack.enter_context(
            self._group.create_handle(layout, self.buffers.topk_idx, config=config)
        )
        self._stack.callback(self.device.synchronize)
        self.update = self._update()
        self.dispatch = self._call("ncclEpDispatch", *dispatch_arguments(self.case, self.buffers))
        self.combine = self._call("ncclEpCombine", *combine_arguments(self.case, self.buffers))

    def why_refused(self) -> str | None:
        """Calls dispatch and combine once: what the library says if it refuses either on any rank."""
        reason = None
        try:
            make((self.dispatch, self.combine))
        except nccl_ep.Error as error:
            reason = f"rank {self.peers.rank}: {error}"
        return next(filter(None, self.peers.all_gather(reason)), None)

    def make_possible(self, operation: Operation) -> None:
        """Does what an operation builds on: a combine alone needs a dispatch whose rows are known."""
        if operation.checked == ("combine",) and not (self._zones and self.library.ordered):
            self.spoil()
            self.dispatch()
            self.device.synchronize()
            self._learn_zones()

    def spoil(self) -> None:
        """Overwrites all outputs, on all ranks before any goes on."""
        self.peers.all_gather(None)
        self.buffers.poison()
        self.peers.all_gather(None)

    def check(self, operation: Operation) -> None:
        """Raises WrongData on all ranks if what the operation produced is wrong on any."""
        self.device.synchronize()
        if "update" in operation.checked:
            self._agree(self._check_counters)
        if "dispatch" in operation.checked:
            self._learn_zones()
        if "combine" in operation.checked:
            self._agree(self._check_combine)

    def masked_ranks(self) -> list[int]:
        """Whom this rank does without. Waits for the stream."""
        num_ranks = self.peers.num_ranks
        mask = self._memory.empty((num_ranks,), np.int32)
        self._group.query_mask(mask)
        active = self.device.read(mask, 0, (num_ranks,))
        return [rank for rank in range(num_ranks) if not active[rank]]

    def loss(self) -> str | None:
        """What the library has to say of a rank that was lost."""
        error = self._group.async_error()
        return None if error is None else error.message

    def close_without(self, lost: int) -> None:
        """Gives everything back without waiting for a lost rank, or as that rank for any other."""
        is_lost = self.peers.rank == lost
        self._group.update_mask([int((rank == lost) == is_lost) for rank in range(self.peers.num_ranks)])
        self.device.synchronize()
        self._stack.close()

    def _learn_zones(self) -> None:
        zones = self._agree(self._check_dispatch)
        if zones != self._zones:
            self._zones, self._combined = zones, None

    def _check_counters(self) -> None:
        if self.case.algorithm == "ht":  # low latency counts in dispatch
            check_counters(self.device, self.buffers, self.inputs, self.peers.rank)

    def _check_dispatch(self) -> Any:
        return check_dispatch(
            self.device, self.buffers, self.inputs, self.peers.rank, ordered=self.library.ordered
        )

    def _check_combine(self) -> None:
        rank = self.peers.rank
        if self._combined is None:
            self._combined = combined(self.inputs, rank, self._zones)
        check_combine(self.device, self.buffers, self.inputs, rank, self._combined)

    def _agree(self, check: Any) -> list[Any]:
        """Every rank's result of a check; WrongData everywhere if it fails anywhere."""
        result, failure = None, None
        try:
            result = check()
        except WrongData as error:
            failure = f"rank {self.peers.rank}: {error}"
        results = self.peers.all_gather([result, failure])
        failures = [failure for _, failure in results if failure]
        if failures:
            raise WrongData(failures[0])
        return [result for result, _ in results]

    def _update(self) -> Call:
        table, info = nccl_ep.Tensor(self.buffers.topk_idx), update_info(self.case, self.buffers)
        return self._call("ncclEpUpdateHandle", table, info)

    def _call(self, name: str, *structs: Any) -> Call:
        """The C function ``name(handle, *structs, stream)``, called without a way through Python."""
        handle = ffi.cast("ncclEpHandle_t", self._handle.ptr)
        args = [NULL if struct is None else struct.c for struct in structs]
        everything = (handle, *args, self._group.c_stream(None))
        return Call(self._group, getattr(self.library.code.c, name), everything, structs)

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After other errors than wrong data, peers may not be there to close with.
        if error is None or isinstance(error, WrongData):
            self._stack.close()

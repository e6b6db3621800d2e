# SPDX-License-Identifier: Apache-2.0
"""Subject: one library, set up for one case on one rank."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import nccl_ep
from nccl_ep._ffi import NULL, ffi

from ep_bench.buffers import Buffers
from ep_bench.calls import Call
from ep_bench.cases import Case
from ep_bench.devices.face import Device, Peers
from ep_bench.inputs import inputs_of
from ep_bench.operations import Operation
from ep_bench.verify import WrongData, ZoneTokens, check_combine, check_dispatch

ALGORITHMS = {"ll": nccl_ep.Algorithm.LOW_LATENCY}
LAYOUTS = {"em": nccl_ep.Layout.EXPERT_MAJOR, "rm": nccl_ep.Layout.RANK_MAJOR}


@dataclass(frozen=True)
class Library:
    """A library with a communicator of its own.

    Attributes:
        name, version: for tables.
        ordered: whether it promises the order of received rows.
    """

    name: str
    version: str
    code: nccl_ep.Library
    communicator: Any
    ordered: bool


class Subject:
    """A group, a handle, buffers, and the three calls bound to them. Making and closing it is collective.

    Attributes:
        update, dispatch, combine: the calls, put on the device's stream.
    """

    def __init__(self, library: Library, case: Case, device: Device, peers: Peers) -> None:
        self.library = library
        self.inputs = inputs_of(case)
        self._case, self._device, self._peers = case, device, peers
        self._zones: list[ZoneTokens] = []
        self._stack = ExitStack()
        try:
            self._set_up()
        except nccl_ep.Error:
            self._stack.close()
            raise

    def _set_up(self) -> None:
        communicator = self.library.communicator
        memory = self._device.memory(communicator)
        self._stack.callback(memory.close)
        self.buffers = Buffers(self._case, self.inputs, self._device, memory, self._peers.rank)
        self._group = self._stack.enter_context(
            nccl_ep.Group(communicator, self._config(), stream=self._device.stream, library=self.library.code)
        )
        layout = LAYOUTS[self._case.layout]
        self._handle = self._stack.enter_context(self._group.create_handle(layout, self.buffers.topk_idx))
        self._stack.callback(self._device.synchronize)
        self.update, self.dispatch, self.combine = self._update(), self._dispatch(), self._combine()

    def make_possible(self, operation: Operation) -> None:
        """Does what an operation builds on: a combine alone needs a dispatch whose rows are known."""
        if operation.checked == ("combine",) and not (self._zones and self.library.ordered):
            self.dispatch()
            self._device.synchronize()
            self._zones = self._agree(self._check_dispatch)

    def spoil(self) -> None:
        """Overwrites all outputs, on all ranks before any goes on."""
        self._peers.all_gather(None)
        self.buffers.poison()
        self._peers.all_gather(None)

    def check(self, operation: Operation) -> None:
        """Raises WrongData on all ranks if what the operation produced is wrong on any."""
        self._device.synchronize()
        if "dispatch" in operation.checked:
            self._zones = self._agree(self._check_dispatch)
        if "combine" in operation.checked:
            self._agree(self._check_combine)

    def _check_dispatch(self) -> Any:
        return check_dispatch(
            self._device, self.buffers, self.inputs, self._peers.rank, ordered=self.library.ordered
        )

    def _check_combine(self) -> Any:
        check_combine(self._device, self.buffers, self.inputs, self._peers.rank, self._zones)

    def _agree(self, check: Any) -> list[Any]:
        """Every rank's result of a check; WrongData everywhere if it fails anywhere."""
        result, failure = None, None
        try:
            result = check()
        except WrongData as error:
            failure = f"rank {self._peers.rank}: {error}"
        results = self._peers.all_gather([result, failure])
        failures = [failure for _, failure in results if failure]
        if failures:
            raise WrongData(failures[0])
        return [result for result, _ in results]

    def _config(self) -> nccl_ep.GroupConfig:
        case, modes = self._case, nccl_ep.ZeroCopyMode
        return nccl_ep.GroupConfig(
            algorithm=ALGORITHMS[case.algorithm],
            num_experts=case.experts,
            max_dispatch_tokens_per_rank=case.tokens,
            max_token_bytes=case.row_bytes,
            max_num_sms=case.sms,
            zero_copy=modes.ON if case.zero_copy else modes.OFF,
            num_topk=case.top_k,
        )

    def _update(self) -> Call:
        table = nccl_ep.Tensor(self.buffers.topk_idx)
        return self._call("ncclEpUpdateHandle", table.c, NULL, keep_alive=table)

    def _dispatch(self) -> Call:
        buffers = self.buffers
        received = nccl_ep.Tensor(
            buffers.received, window=buffers.window, window_offset=0 if buffers.window is not None else None
        )
        if self._case.layout == "em":
            inputs = nccl_ep.DispatchInputs(buffers.tokens)
            outputs = nccl_ep.DispatchOutputs(received)
            info = nccl_ep.LayoutInfo(expert_counters=buffers.counters)
        else:
            inputs = nccl_ep.DispatchInputs(buffers.tokens, buffers.topk_weights)
            outputs = nccl_ep.DispatchOutputs(
                received, buffers.received_weights, topk_idx=buffers.received_idx
            )
            info = nccl_ep.LayoutInfo(src_rank_counters=buffers.counters)
        config = nccl_ep.DispatchConfig()
        args = (inputs.c, outputs.c, info.c, config.c)
        return self._call("ncclEpDispatch", *args, keep_alive=(inputs, outputs, info, config))

    def _combine(self) -> Call:
        weights = self.buffers.topk_weights if self._case.layout == "em" else None
        inputs = nccl_ep.CombineInputs(self.buffers.expert_rows)
        outputs = nccl_ep.CombineOutputs(self.buffers.combined, weights)
        config = nccl_ep.CombineConfig()
        return self._call(
            "ncclEpCombine", inputs.c, outputs.c, config.c, keep_alive=(inputs, outputs, config)
        )

    def _call(self, name: str, *args: Any, keep_alive: Any) -> Call:
        """The C function ``name(handle, *args, stream)``, called without a way through Python."""
        handle = ffi.cast("ncclEpHandle_t", self._handle.ptr)
        everything = (handle, *args, self._group.c_stream(None))
        return Call(self._group, getattr(self.library.code.c, name), everything, keep_alive)

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After other errors than wrong data, peers may not be there to close with.
        if error is None or isinstance(error, WrongData):
            self._stack.close()

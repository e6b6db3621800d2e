# SPDX-License-Identifier: Apache-2.0
"""Handle: one routing of tokens to experts, and the calls that use it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from nccl_ep._checks import check_types, member, whole
from nccl_ep._closing import Closing
from nccl_ep._ffi import NULL, address_of, ffi
from nccl_ep.config import CombineConfig, CompleteConfig, DispatchConfig, HandleConfig
from nccl_ep.enums import Layout
from nccl_ep.errors import Error, InvalidUsage
from nccl_ep.group import Group
from nccl_ep.io import CombineInputs, CombineOutputs, DispatchInputs, DispatchOutputs, LayoutInfo
from nccl_ep.tensor import Tensor


class Handle(Closing):
    """One routing of a group's tokens: which experts each token goes to.

    Made by :meth:`Group.create_handle` or :meth:`Handle.init`. A handle keeps its group open, and its group
    closes it. Keep it until its calls have run: one that nothing refers to any more is closed. Handles of one
    group may be used in turn, in the same order on every rank.

    Shapes below: R ranks, L experts of a rank, B ``max_dispatch_tokens_per_rank``, b tokens of this rank (0
    to B), K top-k, H hidden; in high throughput M rows received: ``max_recv_tokens_per_rank`` or more, or
    without such a budget at least as many as ``recv_total_counter`` says. Tokens are bfloat16, float16 or
    float32, the same type on the way in and out, unless a recipe says otherwise: see :meth:`dispatch` and
    :meth:`combine`.

    Streams: every call is put on ``stream`` (default: the group's) and returns at once. Inputs and outputs
    must stay valid until the stream has passed the call.
    """

    _ptr = NULL

    def __init__(self, group: Group, layout: Layout | int, num_topk: int, ptr: Any, *keep_alive: Any) -> None:
        self.group = group
        self.layout = layout
        self.num_topk = num_topk
        self._ptr = ptr
        self._keep_alive = keep_alive
        self._routing: Any = None  # what the last update was given: calls read it
        self._pending: Any = None  # what a send_only call used: complete still needs it
        self._c = group.library.c
        group._handles.add(self)

    @classmethod
    def init(
        cls,
        group: Group,
        layout: Layout | int,
        num_topk: int,
        *,
        config: HandleConfig | None = None,
        handle_mem: Any = None,
    ) -> Handle:
        """Makes a handle without routing; :meth:`update` gives it one. Not collective, not capturable.

        Args:
            group: the group.
            layout: how dispatch arranges the rows it receives.
            num_topk: K of every routing this handle gets.
            config: options.
            handle_mem: uint8 ``[n]`` of your own device memory, n at least :meth:`Group.handle_mem_size`.
                Yours again once the handle is closed and its last call has run. Default: allocated with the
                group's allocator.

        Raises:
            InvalidArgument: ``num_topk`` or ``handle_mem`` does not fit.
            InvalidUsage: high throughput: ``num_topk`` is more than the group's, or the group needs one.
        """
        check_types(group=(group, Group), config=(config, HandleConfig | None))
        c_layout, num_topk = member("layout", layout, Layout), whole("num_topk", num_topk)
        memory = None if handle_mem is None else Tensor.of(handle_mem)
        c_memory = NULL if memory is None else memory.c
        out = ffi.new("ncclEpHandle_t*")
        group.check(
            group.library.c.ncclEpInitHandle(
                out, group._open_ptr(), c_layout, NULL if config is None else config.c, num_topk, c_memory
            )
        )
        return cls(group, layout, num_topk, out[0], memory)

    @classmethod
    def create(
        cls,
        group: Group,
        layout: Layout | int,
        topk_idx: Any,
        *,
        layout_info: LayoutInfo | None = None,
        config: HandleConfig | None = None,
        stream: Any = None,
    ) -> Handle:
        """Makes a handle with its first routing: :meth:`init` and :meth:`update` in one. Not capturable."""
        check_types(
            group=(group, Group),
            layout_info=(layout_info, LayoutInfo | None),
            config=(config, HandleConfig | None),
        )
        c_layout, table = member("layout", layout, Layout), Tensor.of(topk_idx)
        c_info = NULL if layout_info is None else layout_info.c
        c_config = NULL if config is None else config.c
        c_stream = group.c_stream(stream)
        out = ffi.new("ncclEpHandle_t*")
        group.check(
            group.library.c.ncclEpCreateHandle(
                out, group._open_ptr(), c_layout, table.c, c_info, c_config, c_stream
            )
        )
        handle = cls(group, layout, table.sizes[-1], out[0])
        handle._routing = table, layout_info
        return handle

    @property
    def ptr(self) -> int:
        """The ``ncclEpHandle_t`` as an address; 0 once closed."""
        return address_of(self._ptr)

    @property
    def closed(self) -> bool:
        """Whether the handle, or its group, has been closed."""
        return not self._ptr

    def update(self, topk_idx: Any, *, layout_info: LayoutInfo | None = None, stream: Any = None) -> None:
        """Gives the handle a new routing. Capturable.

        Args:
            topk_idx: int32 or int64 ``[b, K]``: each token's experts, 0 to experts - 1, or a negative number
                for none. An expert that a token names twice gets it once, with the sum of the weights. Low
                latency reads this memory during dispatch and combine, so that a graph can be replayed with
                new contents: leave it in place, and unchanged from a dispatch to the end of its combine. High
                throughput reads it once, in stream order, and the call is collective. The handle keeps the
                buffer alive.
            layout_info: num_tokens int32 ``[1]`` on the device: there are that many tokens, 0 to b, the first
                rows of every tensor with b rows, of which the others are not written. It is read when
                ``topk_idx`` is, so that a graph captured for b tokens can be replayed with any number of
                them. There is nothing else for low latency. High throughput fills what it is given:
                expert_counters ``[L]``, expert_offsets ``[L]`` (expert-major) and recv_total_counter ``[1]``.
                Flat: expert_counters are int32, recv_total_counter int32 or int64. Expert-major: all int32
                or all int64, counting rows with their padding.
            stream: default: the group's.

        Raises:
            InvalidArgument: shape or type of a tensor does not fit. From the next call on: num_tokens is not
                in 0 to b.
            InvalidUsage: low latency: a ``send_only`` call of this handle is still to be completed. From the
                next call on: a rank would receive more rows than its budget, and overflow_policy is not DROP.
        """
        table = Tensor.of(topk_idx)
        c_stream = self.group.c_stream(stream)
        try:
            result = self._c.ncclEpUpdateHandle(
                self._open_ptr(), table.c, NULL if layout_info is None else layout_info.c, c_stream
            )
        except (AttributeError, TypeError):
            check_types(layout_info=(layout_info, LayoutInfo | None))
            raise
        self._check(result)
        self._routing = table, layout_info

    def dispatch(
        self,
        inputs: DispatchInputs,
        outputs: DispatchOutputs,
        *,
        layout_info: LayoutInfo | None = None,
        config: DispatchConfig | None = None,
        stream: Any = None,
    ) -> None:
        """Sends each token to the ranks of its experts. Collective; capturable, but not in high throughput
        without a budget.

        Rows arrive in the order of (source rank, token). Rows of the outputs that nothing fills stay as they
        were.

        ============  =================================================  =====================================
        low latency   expert-major                                       rank-major
        ============  =================================================  =====================================
        inputs        tokens ``[b, H]``                                  tokens ``[b, H]``,
                                                                         topk_weights ``[b, K]`` float32
        outputs       tokens ``[L, R*B, H]``                             tokens ``[R, B, H]``,
                                                                         topk_weights ``[R, B, K]`` float32,
                                                                         topk_idx ``[R, B, K]`` int32
        layout_info   expert_counters ``[L]`` int32, required            src_rank_counters ``[R]`` int32,
                                                                         optional; recv_topk_idx_kind
        ============  =================================================  =====================================

        ================  =============================================  =====================================
        high throughput   expert-major                                   flat
        ================  =============================================  =====================================
        inputs            tokens ``[b, H]``,                             tokens ``[b, H]``,
                          topk_weights ``[b, K]`` float32                topk_weights ``[b, K]`` float32
        outputs           tokens ``[M, H]``,                             tokens ``[M, H]``,
                          topk_weights ``[M]`` float32                   topk_weights ``[M, K]`` float32,
                                                                         topk_idx ``[M, K]`` int64
        layout_info       nothing is read                                recv_topk_idx_kind
        ================  =============================================  =====================================

        The recipe of ``config`` says which types there are, and with which scales; n is their number for one
        row. Output scales have the shape of the output tokens with n in place of H, and stand where their
        rows do.

        ============  =================================================  =====================================
        recipe        inputs                                             outputs
        ============  =================================================  =====================================
        NONE          tokens bfloat16, float16 or float32                tokens of the same type
        FWD           tokens of these types, FLOAT8E4M3, FLOAT8E5M2 or   tokens and scales of the same types,
                      FLOAT4X2, of which H counts bytes;                 with the same n
                      scales ``[b, n]`` float32, float16, bfloat16,
                      FLOAT8E4M3, FLOAT8E5M2 or uint8, n at least 1
        DS_FP8E3M4    tokens bfloat16, H a multiple of 128               tokens FLOAT8E4M3, scales float32,
                                                                         n = H / 128: an element is its number
                                                                         times the scale of its 128
        ============  =================================================  =====================================

        Tokens begin at a multiple of 16 bytes, and a row of them is one; scales begin at a multiple of their
        type's size, but with FWD in high throughput of 16 bytes. A row with its scales, as it arrives, has
        ``max_token_bytes`` at most.

        Flat rows are one for each token; its experts here stand first in ``topk_idx``, in ascending order,
        with their weights, and -1 behind. Expert-major rows stand in the zones that :meth:`update` counted,
        padding is zeros, of scales too. The backward pass has neither weights nor ``topk_idx``. Outputs in
        windows are written by their senders directly, if ``zero_copy`` allows; all ranks then use the same
        offset, and tokens and scales are both in windows or neither.

        Rank-major ``topk_idx`` names an expert of this rank where the token's top-k does, and is -1
        elsewhere, unused rows included. Low latency works alike for outputs in windows and elsewhere.

        Args:
            inputs: what this rank sends.
            outputs: what it receives.
            layout_info: where counts go.
            config: options; ``send_only`` leaves the receiving to :meth:`complete`.
            stream: default: the group's.

        Raises:
            InvalidArgument: a tensor is missing, too many, or of the wrong shape, type or alignment.
            InvalidUsage: there is no routing yet; a ``send_only`` call of this handle, or the last but one of
                the group's, is still to be completed; or a graph is captured without a budget.
            RemoteError: an earlier call on this group waited too long for another rank.
        """
        c_stream = self.group.c_stream(stream)
        try:
            c_info = NULL if layout_info is None else layout_info.c
            c_config = NULL if config is None else config.c
            result = self._c.ncclEpDispatch(self._open_ptr(), inputs.c, outputs.c, c_info, c_config, c_stream)
        except (AttributeError, TypeError):
            check_types(
                inputs=(inputs, DispatchInputs),
                outputs=(outputs, DispatchOutputs),
                layout_info=(layout_info, LayoutInfo | None),
                config=(config, DispatchConfig | None),
            )
            raise
        self._check(result)
        if config and config.send_only:
            self._pending = inputs, outputs, layout_info

    def combine(
        self,
        inputs: CombineInputs,
        outputs: CombineOutputs,
        *,
        config: CombineConfig | None = None,
        stream: Any = None,
    ) -> None:
        """Sends the experts' rows back and sums them for each token. Collective; capturable.

        ============  =================================================  =====================================
        low latency   expert-major                                       rank-major
        ============  =================================================  =====================================
        inputs        tokens ``[L, R*B, H]``                             tokens ``[R, B, H]``, weighted and
                                                                         summed over the rank's experts
        outputs       tokens ``[b, H]``; topk_weights ``[b, K]``         tokens ``[b, H]``
                      float32, which is read
        ============  =================================================  =====================================

        ================  =============================================  =====================================
        high throughput   expert-major                                   flat
        ================  =============================================  =====================================
        inputs            tokens ``[M, H]``, weighted                    tokens ``[M, H]``, weighted and
                                                                         summed over the rank's experts
        backward, too     topk_weights ``[M]`` float32                   topk_weights ``[M, K]`` float32
        outputs           tokens ``[b, H]``                              tokens ``[b, H]``
        backward, too     topk_weights ``[b, K]`` float32                topk_weights ``[b, K]`` float32
        ================  =============================================  =====================================

        The recipe of ``config`` says which types there are:

        ============  =================================================  =====================================
        recipe        inputs                                             outputs
        ============  =================================================  =====================================
        NONE          tokens bfloat16, float16 or float32                tokens of the same type
        FP8           tokens bfloat16, H a multiple of 128; no scales,   tokens bfloat16
                      which are made on the way
        NVFP4         low latency: tokens bfloat16, H a multiple of 32;  tokens bfloat16
                      scales float32, ``[L, R*B, 1]`` or
                      ``[R, B, 1]``: 2688 / the row's largest
                      magnitude, 0 for a row of zeros
        ============  =================================================  =====================================

        FP8 is for low latency and for high throughput's forward pass; neither goes with ``exact_combine``.

        Backward, ``topk_weights`` are the gradients of what dispatch gave out; each goes to the places of its
        expert in the top-k, and places without one get zero.

        Sums are made in float32: over a rank's experts in the order of the top-k (high throughput: of their
        numbers), rounded once to the tokens' type, then over ranks in their order. The result has the same
        bits every time. A token without experts gets zeros.

        Args:
            inputs: the experts' rows, in the places where dispatch put their tokens.
            outputs: this rank's tokens.
            config: options; ``send_only`` leaves the receiving to :meth:`complete`.
            stream: default: the group's.

        Raises:
            InvalidArgument: a tensor is missing, or of the wrong shape, type or alignment.
            InvalidUsage: there was no dispatch or routing, or a ``send_only`` call is still to be completed,
                as with :meth:`dispatch`.
            RemoteError: an earlier call on this group waited too long for another rank.
        """
        c_stream = self.group.c_stream(stream)
        try:
            result = self._c.ncclEpCombine(
                self._open_ptr(), inputs.c, outputs.c, NULL if config is None else config.c, c_stream
            )
        except (AttributeError, TypeError):
            check_types(
                inputs=(inputs, CombineInputs),
                outputs=(outputs, CombineOutputs),
                config=(config, CombineConfig | None),
            )
            raise
        self._check(result)
        if config and config.send_only:
            self._pending = inputs, outputs

    def complete(self, *, config: CompleteConfig | None = None, stream: Any = None) -> None:
        """Receives what a ``send_only`` call left pending, if anything. Collective; capturable."""
        c_stream = self.group.c_stream(stream)
        try:
            result = self._c.ncclEpComplete(self._open_ptr(), NULL if config is None else config.c, c_stream)
        except (AttributeError, TypeError):
            check_types(config=(config, CompleteConfig | None))
            raise
        self._check(result)
        self._pending = None

    def close(self) -> None:
        """Frees the handle. Not collective. Closing twice is harmless.

        Its calls must have run: its memory is given back at once. Without an allocator of yours CUDA waits
        for the device then, and so for the ranks that kernels still wait for.
        """
        if not self.closed:
            ptr, self._ptr = self._ptr, NULL
            self._check(self.group.library.destroy_handle(ptr))
            self._keep_alive = ()
            self._routing = self._pending = None

    destroy = close

    def _check(self, result: int) -> None:
        if result:
            self.group.check(result)

    def _open_ptr(self) -> Any:
        if not self._ptr:
            raise InvalidUsage(5, "the handle is closed")
        return self._ptr

    def __del__(self) -> None:
        with suppress(Error):  # the group is faulted; whoever uses it next is told
            self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<nccl_ep.Handle closed>"
        name = Layout(self.layout).name.lower().replace("_", "-")
        return f"<nccl_ep.Handle {name}, top-{self.num_topk} at {self.ptr:#x}>"

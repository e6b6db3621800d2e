# SPDX-License-Identifier: Apache-2.0
"""A handle, a routing, a dispatch or a combine that cannot be: the code, and a message that says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest

EM, RM = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR
BF16 = ml_dtypes.bfloat16
IA, IU = ep.InvalidArgument, ep.InvalidUsage
E, B, b, K, H = 4, 4, 3, 2, 32  # one rank: R = 1, L = E


class Desk:
    """One rank with a group and well-formed tensors; a test spoils one of them."""

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        self.rank, self.group, self.layout = rank, group, layout
        self.topk_idx = self.array((b, K), np.int64)
        self.tokens = self.array((b, H), BF16)
        self.weights = self.array((b, K), np.float32)
        zone = (E, B) if layout is EM else (1, B)
        self.received = self.array((*zone, H), BF16)
        self.received_weights = self.array((1, B, K), np.float32)
        self.received_idx = self.array((1, B, K), np.int32)
        self.counters = self.array((E if layout is EM else 1,), np.int32)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.rank.array(np.zeros(shape, dtype))

    def handle(self) -> ep.Handle:
        return self.group.create_handle(self.layout, self.topk_idx)

    def inputs(self, **changes: Any) -> ep.DispatchInputs:
        good = {"tokens": self.tokens} | ({} if self.layout is EM else {"topk_weights": self.weights})
        return ep.DispatchInputs(**(good | changes))

    def outputs(self, **changes: Any) -> ep.DispatchOutputs:
        good = {"tokens": self.received}
        if self.layout is RM:
            good |= {"topk_weights": self.received_weights, "topk_idx": self.received_idx}
        return ep.DispatchOutputs(**(good | changes))

    def info(self, **changes: Any) -> ep.LayoutInfo:
        name = "expert_counters" if self.layout is EM else "src_rank_counters"
        return ep.LayoutInfo(**({name: self.counters} | changes))

    def combine_inputs(self, **changes: Any) -> ep.CombineInputs:
        return ep.CombineInputs(**({"tokens": self.received} | changes))

    def combine_outputs(self, **changes: Any) -> ep.CombineOutputs:
        good = {"tokens": self.tokens} | ({"topk_weights": self.weights} if self.layout is EM else {})
        return ep.CombineOutputs(**(good | changes))


Act = Callable[[Desk], Any]


def refused(make_cluster: Any, layout: ep.Layout, act: Act, **config: Any) -> ep.Error:
    """The error that ``act`` ends in. The group must work as before afterwards."""

    def main(rank: Any) -> ep.Error:
        fields = {"num_experts": E, "max_dispatch_tokens_per_rank": B, "max_token_bytes": 2 * H} | config
        with ep.Group(rank.comm, ep.GroupConfig(**fields)) as group:
            desk = Desk(rank, group, layout)
            with pytest.raises(ep.Error) as failure:
                act(desk)
            assert group.async_error() == 0
            if not config:
                works(desk)
            rank.synchronize()
            return failure.value

    return make_cluster(1).run(main)[0]


def works(desk: Desk) -> None:
    with desk.handle() as handle:
        handle.complete()
        handle.dispatch(desk.inputs(), desk.outputs(), layout_info=desk.info())
        handle.combine(desk.combine_inputs(), desk.combine_outputs())
        desk.rank.synchronize()


def expect(failure: ep.Error, error: type[ep.Error], says: str) -> None:
    assert type(failure) is error, failure
    assert re.search(says, failure.message), failure.message


def table(*rows: tuple[Any, ...]) -> Any:
    """Parametrizes a test by rows of (name, act, error, message)."""
    return pytest.mark.parametrize(
        ("act", "error", "says"), [pytest.param(*row[1:], id=row[0]) for row in rows]
    )


# ---- Handles ----


@table(
    ("unset", lambda d: d.group.init_handle(ep.Layout.UNSET, K), IA, r"layout.*0.*expected"),
    ("flat", lambda d: d.group.init_handle(ep.Layout.FLAT, K), IA, r"layout.*3.*expected"),
    ("unknown", lambda d: d.group.init_handle(9, K), IA, r"layout.*9.*expected"),
    ("topk 0", lambda d: d.group.init_handle(EM, 0), IA, r"num_topk.*\b0\b.*expected 1 to 4"),
    ("topk -1", lambda d: d.group.init_handle(EM, -1), IA, r"num_topk.*-1.*expected 1 to 4"),
    ("topk 5", lambda d: d.group.init_handle(EM, 5), IA, r"num_topk.*\b5\b.*expected 1 to 4"),
    ("size: layout", lambda d: d.group.handle_mem_size(ep.Layout.FLAT, K), IA, r"layout.*3.*expected"),
    ("size: topk", lambda d: d.group.handle_mem_size(EM, 0), IA, r"num_topk.*\b0\b.*expected"),
    (
        "alignment 3",
        lambda d: d.group.init_handle(EM, K, config=ep.HandleConfig(3)),
        IA,
        r"dispatch_output_per_expert_alignment.*3.*power of two",
    ),
    (
        "alignment 8",
        lambda d: d.group.init_handle(EM, K, config=ep.HandleConfig(8)),
        IU,
        r"dispatch_output_per_expert_alignment.*8.*expected 0 or 1",
    ),
    (
        "small memory",
        lambda d: d.group.init_handle(EM, K, handle_mem=d.array((16,), np.uint8)),
        IA,
        r"handle_mem.*16.*expected at least",
    ),
    (
        "memory type",
        lambda d: d.group.init_handle(EM, K, handle_mem=d.array((100_000,), np.int8)),
        IA,
        r"handle_mem.*int8.*expected uint8",
    ),
    (
        "memory shape",
        lambda d: d.group.init_handle(EM, K, handle_mem=d.array((1000, 100), np.uint8)),
        IA,
        r"handle_mem.*2 dimensions.*expected 1",
    ),
)
def test_a_handle(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Routings ----


def update(**changes: Any) -> Act:
    """Gives a good handle a routing of this shape and type."""
    shape, dtype = changes.get("shape", (b, K)), changes.get("dtype", np.int64)
    info = changes.get("info")
    return lambda d: d.handle().update(d.array(shape, dtype), layout_info=info(d) if info else None)


@table(
    ("1D", update(shape=(6,)), IA, r"topk_idx.*1 dimension.*expected 2"),
    ("3D", update(shape=(3, 2, 1)), IA, r"topk_idx.*3 dimension.*expected 2"),
    ("float", update(dtype=np.float32), IA, r"topk_idx.*float32.*expected int32 or int64"),
    ("uint32", update(dtype=np.uint32), IA, r"topk_idx.*uint32.*expected int32 or int64"),
    ("another K", update(shape=(b, K + 1)), IA, r"topk_idx.*extent 1 is 3.*expected 2"),
    ("too many tokens", update(shape=(B + 1, K)), IA, r"topk_idx.*extent 0 is 5.*expected at most 4"),
    ("layout_info", update(info=lambda d: d.info()), IA, r"layout_info.*expected NULL"),
    (
        "created from 1D",
        lambda d: d.group.create_handle(EM, d.array((4,), np.int64)),
        IA,
        r"topk_idx.*expected",
    ),
    (
        "created with K 0",
        lambda d: d.group.create_handle(EM, d.array((b, 0), np.int64)),
        IA,
        r"num_topk.*\b0\b",
    ),
)
def test_a_routing(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Dispatch ----


def dispatch(
    inputs: Act = lambda d: d.inputs(),
    outputs: Act = lambda d: d.outputs(),
    info: Act = lambda d: d.info(),
    **config: Any,
) -> Act:
    """A dispatch of a good handle with these tensors."""
    return lambda d: d.handle().dispatch(
        inputs(d), outputs(d), layout_info=info(d), config=ep.DispatchConfig(**config)
    )


def misaligned(d: Desk) -> ep.Tensor:
    raw = d.array((4 * B * H * 2 + 16,), np.uint8)
    return ep.Tensor(ep.Tensor(raw).ptr + 8, dtype="bfloat16", shape=(b, H))


COMMON_DISPATCH = (
    ("backward", dispatch(pass_direction=ep.PassDir.BWD), IU, r"pass_direction.*BWD.*expected"),
    ("recipe", dispatch(quantization_recipe=1), IU, r"quant_recipe.*1.*not available"),
    ("unknown recipe", dispatch(quantization_recipe=9), IA, r"quant_recipe.*9.*expected"),
    ("round_scales", dispatch(round_scales=1), IA, r"round_scales.*expected 0"),
    ("tokens 1D", dispatch(lambda d: d.inputs(tokens=d.array((H,), BF16))), IA, r"inputs\.tokens.*1 dim.*2"),
    (
        "tokens of int",
        dispatch(lambda d: d.inputs(tokens=d.array((b, H), np.int32))),
        IA,
        r"inputs\.tokens.*int32.*expected bfloat16 or float16 or float32",
    ),
    (
        "more tokens than routes",
        dispatch(lambda d: d.inputs(tokens=d.array((b + 1, H), BF16))),
        IA,
        r"inputs\.tokens.*extent 0 is 4.*expected 3",
    ),
    (
        "row of 24 bytes",
        dispatch(lambda d: d.inputs(tokens=d.array((b, 12), BF16))),
        IA,
        r"inputs\.tokens.*24 bytes.*multiple of 16",
    ),
    (
        "row too long",
        dispatch(lambda d: d.inputs(tokens=d.array((b, 2 * H), BF16))),
        IA,
        r"inputs\.tokens.*128 bytes.*at most 64 = max_token_bytes",
    ),
    ("misaligned", dispatch(lambda d: d.inputs(tokens=misaligned(d))), IA, r"inputs\.tokens.*multiple of 16"),
    ("scales", dispatch(lambda d: d.inputs(scales=d.weights)), IA, r"inputs\.scales.*expected NULL"),
    ("output scales", dispatch(outputs=lambda d: d.outputs(scales=d.weights)), IA, r"outputs\.scales.*NULL"),
    (
        "output type",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((E, B, H), np.float16))),
        IA,
        r"outputs\.tokens.*float16.*expected bfloat16",
    ),
    (
        "output hidden",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((*d.received.shape[:2], H - 8), BF16))),
        IA,
        r"outputs\.tokens.*extent 2 is 24.*expected 32",
    ),
    (
        "output 2D",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((E * B, H), BF16))),
        IA,
        r"outputs\.tokens.*2 dimensions.*expected 3",
    ),
    (
        "offsets",
        dispatch(info=lambda d: d.info(expert_offsets=d.counters)),
        IA,
        r"layout_info\.expert_offsets.*NULL",
    ),
    (
        "total",
        dispatch(info=lambda d: d.info(recv_total_counter=d.counters)),
        IA,
        r"layout_info\.recv_total_counter.*NULL",
    ),
)


@table(
    *COMMON_DISPATCH,
    (
        "weights",
        dispatch(lambda d: d.inputs(topk_weights=d.weights)),
        IA,
        r"inputs\.topk_weights.*expected NULL",
    ),
    (
        "output weights",
        dispatch(outputs=lambda d: d.outputs(topk_weights=d.received_weights)),
        IA,
        r"outputs\.topk_weights.*expected NULL",
    ),
    (
        "output ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=d.received_idx)),
        IA,
        r"outputs\.topk_idx.*expected NULL",
    ),
    ("no counters", dispatch(info=lambda d: ep.LayoutInfo()), IA, r"expert_counters.*NULL.*expected"),
    (
        "counters type",
        dispatch(info=lambda d: d.info(expert_counters=d.array((E,), np.int64))),
        IA,
        r"expert_counters.*int64.*expected int32",
    ),
    (
        "counters short",
        dispatch(info=lambda d: d.info(expert_counters=d.array((E - 1,), np.int32))),
        IA,
        r"expert_counters.*extent 0 is 3.*at least 4",
    ),
    (
        "zones",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((E, B + 1, H), BF16))),
        IA,
        r"outputs\.tokens.*extent 1 is 5.*expected 4 = ranks x max_dispatch_tokens_per_rank",
    ),
    (
        "source counters",
        dispatch(info=lambda d: d.info(src_rank_counters=d.counters)),
        IA,
        r"src_rank_counters",
    ),
)
def test_an_expert_major_dispatch(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


@table(
    *COMMON_DISPATCH,
    (
        "no weights",
        dispatch(lambda d: d.inputs(topk_weights=None)),
        IA,
        r"inputs\.topk_weights.*NULL.*expected",
    ),
    (
        "weights type",
        dispatch(lambda d: d.inputs(topk_weights=d.array((b, K), np.float16))),
        IA,
        r"inputs\.topk_weights.*float16.*expected float32",
    ),
    (
        "weights shape",
        dispatch(lambda d: d.inputs(topk_weights=d.array((b, K + 1), np.float32))),
        IA,
        r"inputs\.topk_weights.*extent 1 is 3.*expected 2",
    ),
    (
        "no output ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=None)),
        IA,
        r"outputs\.topk_idx.*NULL.*expected",
    ),
    (
        "wide output ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=d.array((1, B, K), np.int64))),
        IA,
        r"outputs\.topk_idx.*int64.*expected int32",
    ),
    (
        "no output weights",
        dispatch(outputs=lambda d: d.outputs(topk_weights=None)),
        IA,
        r"outputs\.topk_weights.*NULL.*expected",
    ),
    (
        "expert counters",
        dispatch(info=lambda d: d.info(expert_counters=d.counters)),
        IA,
        r"layout_info\.expert_counters.*expected NULL",
    ),
    (
        "id kind",
        dispatch(info=lambda d: d.info(recv_topk_idx_kind=9)),
        IA,
        r"recv_topk_idx_kind.*9.*expected",
    ),
)
def test_a_rank_major_dispatch(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, RM, act), error, says)


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
def test_zero_copy_that_cannot_be(make_cluster: Any, layout: ep.Layout) -> None:
    failure = refused(make_cluster, layout, dispatch(), zero_copy=ep.ZeroCopyMode.ON)
    expect(failure, IA, r"outputs\.tokens.*zero_copy")


# ---- Combine ----


def combine(
    inputs: Act = lambda d: d.combine_inputs(), outputs: Act = lambda d: d.combine_outputs(), **config: Any
) -> Act:
    """A good dispatch and then a combine with these tensors."""

    def act(d: Desk) -> None:
        handle = d.handle()
        handle.dispatch(d.inputs(), d.outputs(), layout_info=d.info())
        handle.combine(inputs(d), outputs(d), config=ep.CombineConfig(**config))

    return act


COMMON_COMBINE = (
    ("backward", combine(pass_direction=ep.PassDir.BWD), IU, r"pass_direction.*BWD.*expected"),
    ("recipe", combine(quantization_recipe=1), IU, r"quant_recipe.*1.*not available"),
    ("scales", combine(lambda d: d.combine_inputs(scales=d.weights)), IA, r"inputs\.scales.*expected NULL"),
    (
        "tokens 2D",
        combine(lambda d: d.combine_inputs(tokens=d.tokens)),
        IA,
        r"inputs\.tokens.*2 dim.*expected 3",
    ),
    (
        "tokens of int",
        combine(lambda d: d.combine_inputs(tokens=d.array(d.received.shape, np.int32))),
        IA,
        r"inputs\.tokens.*int32.*expected bfloat16",
    ),
    (
        "output type",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b, H), np.float32))),
        IA,
        r"outputs\.tokens.*float32.*expected bfloat16",
    ),
    (
        "output rows",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b + 1, H), BF16))),
        IA,
        r"outputs\.tokens.*extent 0 is 4.*expected 3",
    ),
    (
        "output hidden",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b, H - 8), BF16))),
        IA,
        r"outputs\.tokens.*extent 1 is 24.*expected 32",
    ),
    (
        "before dispatch",
        lambda d: d.handle().combine(d.combine_inputs(), d.combine_outputs()),
        IU,
        r"not been dispatched.*expected ncclEpDispatch",
    ),
)


@table(
    *COMMON_COMBINE,
    (
        "no weights",
        combine(outputs=lambda d: d.combine_outputs(topk_weights=None)),
        IA,
        r"outputs\.topk_weights.*NULL.*expected",
    ),
    (
        "weights type",
        combine(outputs=lambda d: d.combine_outputs(topk_weights=d.array((b, K), np.float64))),
        IA,
        r"outputs\.topk_weights.*float64.*expected float32",
    ),
    (
        "weights shape",
        combine(outputs=lambda d: d.combine_outputs(topk_weights=d.array((b + 1, K), np.float32))),
        IA,
        r"outputs\.topk_weights.*extent 0 is 4.*expected 3",
    ),
    (
        "zones",
        combine(lambda d: d.combine_inputs(tokens=d.array((E, B - 1, H), BF16))),
        IA,
        r"inputs\.tokens.*extent 1 is 3.*expected 4",
    ),
)
def test_an_expert_major_combine(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


@table(*COMMON_COMBINE)
def test_a_rank_major_combine(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, RM, act), error, says)


# ---- Order of calls ----


def test_a_dispatch_without_routing(make_cluster: Any) -> None:
    def act(d: Desk) -> None:
        d.group.init_handle(EM, K).dispatch(d.inputs(), d.outputs(), layout_info=d.info())

    expect(refused(make_cluster, EM, act), IU, r"no routing.*expected ncclEpUpdateHandle")


@pytest.mark.parametrize("name", ["dispatch", "combine", "update", "another handle"])
def test_nothing_else_while_a_send_is_pending(make_cluster: Any, name: str) -> None:
    def act(d: Desk) -> None:
        handle, other = d.handle(), d.handle()
        handle.dispatch(
            d.inputs(), d.outputs(), layout_info=d.info(), config=ep.DispatchConfig(send_only=True)
        )
        try:
            if name == "combine":
                handle.combine(d.combine_inputs(), d.combine_outputs())
            elif name == "update":
                handle.update(d.topk_idx)
            else:
                user = handle if name == "dispatch" else other
                user.dispatch(d.inputs(), d.outputs(), layout_info=d.info())
        finally:
            handle.complete()

    expect(refused(make_cluster, EM, act), IU, r"send_only.*pending.*expected ncclEpComplete")


def test_masks_are_not_available_yet(make_cluster: Any) -> None:
    expect(refused(make_cluster, EM, lambda d: d.group.update_mask([1])), IU, r"mask")
    expect(refused(make_cluster, EM, lambda d: d.group.clean_mask()), IU, r"mask")
    expect(refused(make_cluster, EM, lambda d: d.group.query_mask(d.counters)), IU, r"mask")

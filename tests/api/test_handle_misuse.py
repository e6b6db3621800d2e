# SPDX-License-Identifier: Apache-2.0
"""A handle, a routing, a dispatch or a combine that cannot be: the code, and a message that says why."""

from __future__ import annotations

from functools import partial
from typing import Any

import misuse
import nccl_ep as ep
import numpy as np
import pytest
from misuse import BF16, IA, IU, Act, B, E, H, K, b, combine, dispatch, expect, table, update

EM, RM = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR


class Desk(misuse.Desk):
    """Of Low Latency."""

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        super().__init__(rank, group, layout)
        zone = (E, B) if layout is EM else (1, B)
        self.received = self.array((*zone, H), BF16)
        self.received_weights = self.array((1, B, K), np.float32)
        self.received_idx = self.array((1, B, K), np.int32)
        self.counters = self.array((E if layout is EM else 1,), np.int32)

    def handle_to_combine(self) -> ep.Handle:
        handle = self.handle()
        handle.dispatch(self.inputs(), self.outputs(), layout_info=self.info())
        return handle

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
        return super().info(**({name: self.counters} | changes))

    def combine_outputs(self, **changes: Any) -> ep.CombineOutputs:
        weights = {"topk_weights": self.weights} if self.layout is EM else {}
        return super().combine_outputs(**(weights | changes))


refused = partial(misuse.refused, Desk)


# ---- Handles ----


@table(
    *misuse.HANDLE,
    ("flat", lambda d: d.group.init_handle(ep.Layout.FLAT, K), IA, r"layout.*3.*expected"),
    ("topk 0", lambda d: d.group.init_handle(EM, 0), IA, r"num_topk.*\b0\b.*expected 1 to 4"),
    ("topk -1", lambda d: d.group.init_handle(EM, -1), IA, r"num_topk.*-1.*expected 1 to 4"),
    ("topk 5", lambda d: d.group.init_handle(EM, 5), IA, r"num_topk.*\b5\b.*expected 1 to 4"),
    ("size: layout", lambda d: d.group.handle_mem_size(ep.Layout.FLAT, K), IA, r"layout.*3.*expected"),
    ("size: topk", lambda d: d.group.handle_mem_size(EM, 0), IA, r"num_topk.*\b0\b.*expected"),
    (
        "alignment 8",
        lambda d: d.group.init_handle(EM, K, config=ep.HandleConfig(8)),
        IU,
        r"dispatch_output_per_expert_alignment.*8.*expected 0 or 1",
    ),
)
def test_a_handle(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Routings ----


@table(
    *misuse.ROUTING,
    ("layout_info", update(expert_counters=((E,), np.int32)), IA, r"layout_info.*expected NULL"),
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


COMMON_DISPATCH = (
    *misuse.DISPATCH,
    ("recipe", dispatch(quantization_recipe=1), IU, r"quant_recipe.*1.*not available"),
    ("backward", dispatch(pass_direction=ep.PassDir.BWD), IU, r"pass_direction.*BWD.*expected"),
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
    *misuse.DISPATCH_WEIGHTS,
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


COMMON_COMBINE = (
    *misuse.COMBINE,
    ("backward", combine(pass_direction=ep.PassDir.BWD), IU, r"pass_direction.*BWD.*expected"),
    (
        "tokens 2D",
        combine(lambda d: d.combine_inputs(tokens=d.tokens)),
        IA,
        r"inputs\.tokens.*2 dim.*expected 3",
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

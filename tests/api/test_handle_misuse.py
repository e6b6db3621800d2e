# SPDX-License-Identifier: Apache-2.0
"""A handle, a routing, a dispatch or a combine that cannot be: the code, and a message that says why."""

from __future__ import annotations

from functools import partial
from typing import Any

import misuse
import nccl_ep as ep
import numpy as np
import pytest
from ll_desk import EM, RM, Desk
from misuse import BF16, IA, IU, Act, B, E, H, K, b, combine, dispatch, expect, table, update

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
        r"topk_idx: extent 1 is 0, expected 1 to 4",
    ),
)
def test_a_routing(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Dispatch ----


COMMON_DISPATCH = (
    *misuse.DISPATCH,
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


def dispatch_in_halves(d: Desk, handle: ep.Handle) -> None:
    handle.dispatch(d.inputs(), d.outputs(), layout_info=d.info(), config=ep.DispatchConfig(send_only=True))


@pytest.mark.parametrize("name", ["dispatch", "combine", "update"])
def test_a_handle_does_nothing_else_while_its_send_is_pending(make_cluster: Any, name: str) -> None:
    def act(d: Desk) -> None:
        handle = d.handle()
        dispatch_in_halves(d, handle)
        try:
            if name == "combine":
                handle.combine(d.combine_inputs(), d.combine_outputs())
            elif name == "update":
                handle.update(d.topk_idx)
            else:
                handle.dispatch(d.inputs(), d.outputs(), layout_info=d.info())
        finally:
            handle.complete()

    expect(refused(make_cluster, EM, act), IU, r"this handle.*send_only.*pending.*expected ncclEpComplete")


@pytest.mark.parametrize("completed", [False, True], ids=["both-pending", "the-last-one-completed"])
def test_an_operation_waits_for_the_last_but_one(make_cluster: Any, completed: bool) -> None:
    def act(d: Desk) -> None:
        first, second, third = d.handle(), d.handle(), d.handle()
        dispatch_in_halves(d, first)
        dispatch_in_halves(d, second)
        third.update(d.topk_idx)
        if completed:
            second.complete()
        try:
            third.dispatch(d.inputs(), d.outputs(), layout_info=d.info())
        finally:
            first.complete()
            third.dispatch(d.inputs(), d.outputs(), layout_info=d.info())
            second.complete()

    expect(
        refused(make_cluster, EM, act),
        IU,
        r"another handle.*send_only.*pending, the last but one, expected ncclEpComplete",
    )


def test_a_handle_that_goes_takes_what_is_pending_along(make_cluster: Any) -> None:
    def main(rank: Any) -> None:
        with ep.Group(rank.comm, ep.GroupConfig(**Desk.CONFIG)) as group:
            desk = Desk(rank, group, EM)
            handle = desk.handle()
            dispatch_in_halves(desk, handle)
            rank.synchronize()
            handle.close()
            for _ in range(3):
                misuse.works(desk)
            rank.synchronize()

    make_cluster(1).run(main)


@pytest.mark.sim_only  # needs two LSA teams
def test_a_handle_that_goes_leaves_messages_on_their_way(make_cluster: Any) -> None:
    """Across LSA teams nobody knows when they have arrived, so that nothing may be written where they lie."""

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, ep.GroupConfig(**Desk.CONFIG)) as group:
            desk = Desk(rank, group, RM)
            desk.received = rank.array(np.zeros((2, B, H), BF16))
            desk.received_weights = rank.array(np.zeros((2, B, K), np.float32))
            desk.received_idx = rank.array(np.zeros((2, B, K), np.int32))
            desk.counters = rank.array(np.zeros(2, np.int32))
            handle = desk.handle()
            dispatch_in_halves(desk, handle)
            rank.synchronize()
            handle.close()
            with pytest.raises(ep.InvalidUsage) as failure:
                misuse.works(desk)
            return failure.value.message

    for message in make_cluster(2, nodes=2).run(main):
        assert "destroyed while a send_only operation of it was pending, expected ncclEpComplete" in message


def test_a_group_without_masks_says_so(make_cluster: Any) -> None:
    expected = r"no rank masks.*expected.*config\.enable_mask"
    expect(refused(make_cluster, EM, lambda d: d.group.update_mask([1])), IU, expected)
    expect(refused(make_cluster, EM, lambda d: d.group.clean_mask()), IU, expected)
    expect(refused(make_cluster, EM, lambda d: d.group.query_mask(d.counters)), IU, expected)
    expect(refused(make_cluster, EM, lambda d: d.group.clear_error()), IU, expected)


@pytest.mark.sim_only  # CUDA's driver crashes
@pytest.mark.parametrize("layout", [EM, RM], ids=["em", "rm"])
def test_a_stream_that_is_none(make_cluster: Any, layout: ep.Layout) -> None:
    expect(refused(make_cluster, layout, misuse.on_no_stream), IA, misuse.NO_STREAM)

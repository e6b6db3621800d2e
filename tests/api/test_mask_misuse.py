# SPDX-License-Identifier: Apache-2.0
"""Masks that cannot be, and handles that know nothing of the ranks that ``clean_mask`` brings back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ll_desk
import misuse
import nccl_ep as ep
import numpy as np
import pytest
import test_ht_misuse as ht_desk
from misuse import IU, expect
from nccl_ep import _ffi

EM, RM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR, ep.Layout.FLAT
MASKS = {"enable_mask": True, "timeout_ns": 10**9}
CASES = {"ll-em": (ll_desk.Desk, EM), "ll-rm": (ll_desk.Desk, RM), "ht-em": (ht_desk.Desk, EM)}
CASES["ht-flat"] = (ht_desk.Desk, FLAT)
ALL = pytest.mark.parametrize("case", CASES)
LL = pytest.mark.parametrize("case", ["ll-em", "ll-rm"])
HT = pytest.mark.parametrize("case", ["ht-em", "ht-flat"])


def refused(make_cluster: Any, case: str, act: misuse.Act) -> ep.Error:
    desk, layout = CASES[case]
    return misuse.refused(desk, make_cluster, layout, act, **MASKS)


@contextmanager
def masked_desk(rank: Any, case: str) -> Iterator[tuple[Any, ep.Group]]:
    """A group with masks, and what a call of it takes."""
    desk_type, layout = CASES[case]
    with ep.Group(rank.comm, ep.GroupConfig(**(desk_type.CONFIG | MASKS))) as group:
        yield desk_type(rank, group, layout), group


def dispatch(desk: Any, handle: ep.Handle) -> None:
    handle.dispatch(desk.inputs(), desk.outputs(), layout_info=desk.info())


def combine(desk: Any, handle: ep.Handle) -> None:
    handle.combine(desk.combine_inputs(), desk.combine_outputs())


def behind_a_cleaning(call: Any) -> misuse.Act:
    """The call, of a handle that was ready for it before masks were cleaned."""

    def act(desk: Any) -> None:
        handle = desk.handle_to_combine()
        desk.group.clean_mask()
        call(desk, handle)

    return act


@HT
@pytest.mark.parametrize("call", [dispatch, combine])
def test_high_throughput_updates_after_a_cleaning(make_cluster: Any, case: str, call: Any) -> None:
    expected = r"no ncclEpUpdateHandle since ncclEpMaskClean, expected one first"
    expect(refused(make_cluster, case, behind_a_cleaning(call)), IU, expected)


@LL
def test_low_latency_dispatches_after_a_cleaning(make_cluster: Any, case: str) -> None:
    expected = r"no ncclEpDispatch since ncclEpMaskClean, expected one first"
    expect(refused(make_cluster, case, behind_a_cleaning(combine)), IU, expected)


@ALL
def test_a_handle_goes_on_once_it_knows(make_cluster: Any, case: str) -> None:
    def main(rank: Any) -> None:
        with masked_desk(rank, case) as (desk, group):
            handle = desk.handle_to_combine()
            for _ in range(2):
                group.clean_mask()
                if isinstance(desk, ht_desk.Desk):
                    handle.update(desk.topk_idx)
                dispatch(desk, handle)
                combine(desk, handle)
            rank.synchronize()

    make_cluster(1).run(main)


@ALL
def test_graphs_are_not_asked(make_cluster: Any, case: str) -> None:
    """A replay may have told a handle what no call has."""

    def main(rank: Any) -> None:
        with masked_desk(rank, case) as (desk, group):
            handle = group.init_handle(CASES[case][1], misuse.K)
            with rank.capture() as graph:
                handle.update(desk.topk_idx, stream=graph.stream)
                handle.dispatch(desk.inputs(), desk.outputs(), layout_info=desk.info(), stream=graph.stream)
            graph.launch()
            rank.synchronize()
            group.clean_mask()
            graph.launch()
            rank.synchronize()
            combine(desk, handle)
            rank.synchronize()

    make_cluster(1).run(main)


@ALL
def test_what_is_captured_runs_later(make_cluster: Any, case: str) -> None:
    def main(rank: Any) -> None:
        with masked_desk(rank, case) as (desk, group):
            handle = desk.handle_to_combine()
            group.clean_mask()
            with rank.capture() as graph:
                handle.combine(desk.combine_inputs(), desk.combine_outputs(), stream=graph.stream)
            if isinstance(desk, ht_desk.Desk):
                handle.update(desk.topk_idx)
            dispatch(desk, handle)
            rank.synchronize()
            graph.launch()
            rank.synchronize()

    make_cluster(1).run(main)


def test_a_rank_is_not_masked_by_itself(make_cluster: Any) -> None:
    """All may be given the same mask. Who is masked in it learns of that from the others."""

    def main(rank: Any) -> list[int]:
        config = ep.GroupConfig(**(ll_desk.Desk.CONFIG | MASKS))
        with ep.Group(rank.comm, config) as group:
            mask = rank.array(np.full(2, -1, np.int32))
            group.update_mask([1, 0])
            group.query_mask(mask)
            group.update_mask([1, 1])
            return rank.read(mask).tolist()

    assert make_cluster(2).run(main) == [[1, 0], [1, 1]]


@pytest.mark.parametrize("value", [2, -1])
def test_a_mask_is_of_zeros_and_ones(make_cluster: Any, value: int) -> None:
    def main(rank: Any) -> str:
        config = ep.GroupConfig(**(ll_desk.Desk.CONFIG | MASKS))
        with ep.Group(rank.comm, config) as group:
            mask = [1, 1]
            mask[1 - rank.rank] = value
            with pytest.raises(ValueError, match="each 0 or 1"):
                group.update_mask(mask)
            result = group.library.c.ncclEpMaskUpdate(group._open_ptr(), mask, _ffi.NULL)
            with pytest.raises(ep.InvalidArgument) as failure:
                group.check(result)
            return failure.value.message

    for rank, message in enumerate(make_cluster(2).run(main)):
        assert f"mask: entry {1 - rank} is {value}, expected 1 (active) or 0 (masked)" in message


@ALL
def test_a_stream_that_is_captured_is_not_cleaned_on(make_cluster: Any, case: str) -> None:
    def act(desk: Any) -> None:
        with desk.rank.capture() as graph:
            desk.group.clean_mask(stream=graph.stream)

    expected = r"ncclEpMaskClean: stream: is being captured, expected one that is not"
    expect(refused(make_cluster, case, act), IU, expected)


@LL
def test_what_is_pending_is_completed_before_a_cleaning(make_cluster: Any, case: str) -> None:
    def act(desk: Any) -> None:
        handle = desk.handle()
        handle.dispatch(
            desk.inputs(), desk.outputs(), layout_info=desk.info(), config=ep.DispatchConfig(send_only=1)
        )
        try:
            desk.group.clean_mask()
        finally:
            handle.complete()
            desk.rank.synchronize()

    expect(refused(make_cluster, case, act), IU, r"send_only operation pending, expected ncclEpComplete")

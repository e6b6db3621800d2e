# SPDX-License-Identifier: Apache-2.0
"""Verification accepts what is right and catches what is not. NumPy stands in for the library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bench_cases import World, case

from ep_bench.verify import WrongData, check_combine, check_dispatch

KINDS = [(layout, dtype) for layout in ("em", "rm") for dtype in ("bf16", "fp16", "fp32")]


def check_all(world: World, *, ordered: bool = True) -> None:
    zones = [
        check_dispatch(world.device, buffers, world.inputs, rank, ordered=ordered)
        for rank, buffers in enumerate(world.buffers)
    ]
    for rank, buffers in enumerate(world.buffers):
        check_combine(world.device, buffers, world.inputs, rank, zones)


def done(**changes) -> World:
    world = World(case(**changes))
    world.dispatch()
    world.combine()
    return world


@pytest.mark.parametrize(("layout", "dtype"), KINDS)
@pytest.mark.parametrize("routing", ["uniform", "hot:1", "zipf:2"])
def test_right_results_are_accepted(layout, dtype, routing):
    check_all(done(layout=layout, dtype=dtype, routing=routing, top_k=1 if routing == "hot:1" else 3))


def test_ranks_without_tokens_and_tokens_without_routes_are_accepted(tmp_path):
    tables = {f"topk_idx_{rank}": np.full((rank, 3), -1) for rank in range(4)}
    tables["topk_idx_3"][1] = [0, -1, 7]
    np.savez(tmp_path / "routes.npz", **tables)
    for layout in ("em", "rm"):
        check_all(done(layout=layout, routing=str(tmp_path / "routes.npz"), tokens=3))


def used_zone(world: World) -> int:
    return int(np.argmax(world.buffers[1].counters))


def last_bit(world: World) -> None:
    world.buffers[1].received.view(np.uint16)[used_zone(world), 0, -1] ^= 1


def wrong_count(world: World) -> None:
    world.buffers[1].counters[used_zone(world)] += 1


def lost_row(world: World) -> None:
    received, zone = world.buffers[1].received, used_zone(world)
    received[zone, 0] = received[zone, 1]


def swapped_rows(world: World) -> None:
    received, zone = world.buffers[1].received, used_zone(world)
    received[zone, :2] = received[zone, 1::-1].copy()


def row_too_many(world: World) -> None:
    buffers, zone = world.buffers[1], used_zone(world)
    buffers.received[zone, buffers.counters[zone]] = 0


def wrong_sum(world: World) -> None:
    world.buffers[1].combined[2, 5] *= 1.05


def not_a_number(world: World) -> None:
    world.buffers[1].combined[2, 5] = np.nan


def nothing_written(world: World) -> None:
    world.buffers[1].poison()


def row_of_a_neighbour(world: World) -> None:
    rows, zone = world.buffers[1].expert_rows, used_zone(world)
    rows[zone, 0], rows[zone, 1] = rows[zone, 1].copy(), rows[zone, 0].copy()
    world.combine()


@pytest.mark.parametrize(
    "spoil",
    [last_bit, wrong_count, lost_row, swapped_rows, row_too_many, wrong_sum, not_a_number, nothing_written,
     row_of_a_neighbour],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["em", "rm"])
def test_wrong_results_are_caught(layout: str, spoil: Callable[[World], None]):
    world = done(layout=layout, tokens=5)  # zones have room for one row more
    spoil(world)
    with pytest.raises(WrongData):
        check_all(world)


@pytest.mark.parametrize("name", ["received_idx", "received_weights"])
def test_wrong_routes_are_caught(name: str):
    world = done(layout="rm")
    places = world.buffers[2].received_idx >= 0
    getattr(world.buffers[2], name)[places] += 1
    with pytest.raises(WrongData, match="topk_idx" if name == "received_idx" else "topk_weights"):
        check_all(world)


def test_a_library_that_promises_no_order_may_swap_rows_but_lose_none():
    world = done()
    swapped_rows(world)
    zones = [
        check_dispatch(world.device, buffers, world.inputs, rank, ordered=False)
        for rank, buffers in enumerate(world.buffers)
    ]
    zone = used_zone(world)
    assert zones[1][zone][:2] == world.inputs.zone_tokens(1, zone)[1::-1].tolist()
    lost_row(world)
    with pytest.raises(WrongData, match="the tokens of rows"):
        check_dispatch(world.device, world.buffers[1], world.inputs, 1, ordered=False)


def test_messages_name_the_place_the_value_and_what_was_expected():
    world = done()
    wrong_count(world)
    with pytest.raises(WrongData, match=r"zone \d: the counter is \d+, expected \d+ rows"):
        check_all(world)

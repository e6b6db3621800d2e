# SPDX-License-Identifier: Apache-2.0
"""Verification accepts what is right and catches what is not. NumPy stands in for the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bench_cases import World, case, named

from ep_bench.expect import WrongData
from ep_bench.oracle import combined
from ep_bench.verify import check_combine, check_counters, check_dispatch

LL = [{"layout": "em"}, {"layout": "rm"}]
HT_FLAT = {"algorithm": "ht", "layout": "fl"}
HT_EM = {"algorithm": "ht", "layout": "em", "alignment": 4}
HT = [HT_FLAT, HT_EM, *({**kind, "pass_direction": "bwd"} for kind in (HT_FLAT, HT_EM))]
DROPS = [
    {**kind, "budget": 9, "overflow": "drop"} for kind in HT
]  # no room for all of 5 tokens or more a rank

TEAMS = [{**kind, "num_teams": teams} for kind in HT for teams in (2, 4)]


def check_all(world: World, *, ordered: bool = True) -> None:
    ranks = list(enumerate(world.buffers))
    for rank, buffers in ranks:
        check_counters(world.device, buffers, world.inputs, rank)
    zones = [check_dispatch(world.device, b, world.inputs, rank, ordered=ordered) for rank, b in ranks]
    for rank, buffers in ranks:
        wanted = combined(world.inputs, rank, zones)
        check_combine(world.device, buffers, world.inputs, rank, wanted)


def done(**changes) -> World:
    world = World(case(**changes))
    world.count()
    world.dispatch()
    world.combine()
    return world


@pytest.mark.parametrize("kind", [*LL, *HT, *DROPS, *TEAMS], ids=named)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("routing", ["uniform", "hot:1", "zipf:2"])
def test_right_results_are_accepted(kind, dtype, routing):
    check_all(done(**kind, dtype=dtype, routing=routing, top_k=1 if routing == "hot:1" else 3))


def test_only_high_throughput_across_teams_may_round_three_times():
    def allowed(**changes) -> np.ndarray:
        of = World(case(**changes))
        zones = [[zone.tokens.tolist() for zone in of.inputs.zones.of_rank(rank)] for rank in range(4)]
        return combined(of.inputs, 1, zones).allowed

    for kind in (HT_FLAT, HT_EM):
        in_one, in_two = allowed(**kind), allowed(**kind, num_teams=2)
        np.testing.assert_allclose(in_two, 1.5 * in_one, rtol=1e-3)  # eps is much more than K + R times 2^-24
    for kind in LL:
        np.testing.assert_array_equal(allowed(**kind, num_teams=2), allowed(**kind))


def test_ranks_without_tokens_and_tokens_without_routes_are_accepted(tmp_path):
    tables = {f"topk_idx_{rank}": np.full((rank, 3), -1) for rank in range(4)}
    tables["topk_idx_3"][1] = [0, -1, 7]
    np.savez(tmp_path / "routes.npz", **tables)
    for kind in (*LL, *HT):
        check_all(done(**kind, routing=str(tmp_path / "routes.npz"), tokens=3))


def used_zone(world: World) -> int:
    """The fullest zone of rank 1."""
    return int(np.argmax([len(zone.tokens) for zone in world.inputs.zones.of_rank(1)]))


def used_rows(world: World) -> tuple[int, int]:
    """Its first row, and how many are used."""
    zone = world.inputs.zones.of_rank(1)[used_zone(world)]
    return zone.first, len(zone.tokens)


def last_bit(world: World) -> None:
    first, _ = used_rows(world)
    world.rows(world.buffers[1].received).view(np.uint16)[first, -1] ^= 1


def wrong_count(world: World) -> None:
    next(iter(world.buffers[1].counters.values()))[0] += 1


def lost_row(world: World) -> None:
    received, (first, _) = world.rows(world.buffers[1].received), used_rows(world)
    received[first] = received[first + 1]


def swapped_rows(world: World) -> None:
    received, (first, _) = world.rows(world.buffers[1].received), used_rows(world)
    received[first : first + 2] = received[[first + 1, first]]


def row_too_many(world: World) -> None:
    zone = next(zone for zone in reversed(world.inputs.zones.of_rank(1)) if zone.has_spare)
    world.rows(world.buffers[1].received)[zone.first + len(zone.tokens) + zone.padding] = 0


def wrong_sum(world: World) -> None:
    world.buffers[1].combined[2, 5] *= 1.05


def not_a_number(world: World) -> None:
    world.buffers[1].combined[2, 5] = np.nan


def nothing_written(world: World) -> None:
    world.buffers[1].poison()


def row_of_a_neighbour(world: World) -> None:
    rows, (first, _) = world.rows(world.buffers[1].expert_rows), used_rows(world)
    rows[first : first + 2] = rows[[first + 1, first]]
    world.combine()


@pytest.mark.parametrize(
    "spoil",
    [last_bit, wrong_count, lost_row, swapped_rows, row_too_many, wrong_sum, not_a_number, nothing_written,
     row_of_a_neighbour],
)  # fmt: skip
@pytest.mark.parametrize("kind", [*LL, *HT, *DROPS], ids=named)
def test_wrong_results_are_caught(kind: dict, spoil: Callable[[World], None]):
    world = done(**kind, tokens=5)  # zones have room for one row more
    spoil(world)
    with pytest.raises(WrongData):
        check_all(world)


@pytest.mark.parametrize("name", ["received_idx", "received_weights"])
@pytest.mark.parametrize("kind", [{"layout": "rm"}, HT_FLAT], ids=named)
def test_wrong_routes_are_caught(kind: dict, name: str):
    world = done(**kind)
    places = np.isin(world.buffers[2].received_idx, range(2))
    getattr(world.buffers[2], name)[places] += 1
    with pytest.raises(WrongData, match="topk_idx" if name == "received_idx" else "topk_weights"):
        check_all(world)


def test_experts_in_another_order_are_caught():
    world = done(**HT_FLAT)
    buffers = world.buffers[0]
    [row, *_] = np.flatnonzero(buffers.received_idx[:, 1] == 1)  # with both of the rank's experts
    for table in (buffers.received_idx, buffers.received_weights):
        table[row, :2] = table[row, 1::-1].copy()
    with pytest.raises(WrongData, match=rf"zone 0: topk_idx\[{row}, 0\] is 1, expected 0"):
        check_all(world)


def spoiled_slot_weight(world: World) -> None:
    world.buffers[1].received_weights[used_rows(world)[0]] += 1


def spoiled_padding(world: World) -> None:
    zone = next(zone for zone in world.inputs.zones.of_rank(1) if zone.padding)
    world.buffers[1].received[zone.first + len(zone.tokens), 3] = 1


def spoiled_offset(world: World) -> None:
    world.buffers[1].counters["expert_offsets"][1] += 1


def spoiled_total(world: World) -> None:
    world.buffers[1].counters["recv_total_counter"][0] -= 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled_slot_weight, "topk_weights"),
        (spoiled_padding, "padding"),
        (spoiled_offset, "expert_offsets"),
        (spoiled_total, "recv_total_counter"),
    ],
)
def test_what_only_high_throughput_has_is_verified(spoil: Callable[[World], None], message: str):
    world = done(**HT_EM)
    spoil(world)
    with pytest.raises(WrongData, match=message):
        check_all(world)


def a_dropped_token(world: World) -> int:
    """One that has no row in rank 1's fullest zone, though it has a route there."""
    enough = World(replace(world.case, budget=0, overflow="trap"))
    wanted = enough.inputs.zones.of_rank(1)[used_zone(world)].tokens
    kept = world.inputs.zones.of_rank(1)[used_zone(world)].tokens
    dropped = np.setdiff1d(wanted, kept)
    assert len(dropped)
    return int(dropped[0])


def kept_instead(world: World) -> None:
    """The first row is that of a token that should have been dropped."""
    first, _ = used_rows(world)
    rows = world.inputs.tokens.rows(np.array([a_dropped_token(world)]))
    world.rows(world.buffers[1].received)[first] = rows.elements[0]


def added_all_the_same(world: World) -> None:
    """A token gets a summand from a rank that has dropped it."""
    home, token = divmod(a_dropped_token(world), world.case.tokens)
    world.buffers[home].combined[token] += world.rows(world.buffers[1].expert_rows)[used_rows(world)[0]]


def counted_after_dropping(world: World) -> None:
    counters = world.buffers[1].counters
    counters["recv_total_counter"][0] = min(9, counters["recv_total_counter"][0])


@pytest.mark.parametrize("spoil", [kept_instead, added_all_the_same, counted_after_dropping])
@pytest.mark.parametrize("kind", DROPS, ids=named)
def test_what_should_have_been_dropped_is_noticed(kind: dict, spoil: Callable[[World], None]):
    world = done(**kind)
    spoil(world)
    with pytest.raises(WrongData):
        check_all(world)


def test_a_gradient_of_what_was_dropped_is_noticed():
    for kind in DROPS[2:]:
        world = done(**kind)
        home, token = divmod(a_dropped_token(world), world.case.tokens)
        ids, gradients = (
            world.inputs.routing[home].topk_idx[token],
            world.buffers[home].combined_weights[token],
        )
        lost = (ids // world.case.local_experts == 1) & (gradients == 0)
        assert lost.any()
        gradients[lost] = 1
        with pytest.raises(WrongData, match="combined topk_weights"):
            check_all(world)


@pytest.mark.parametrize("kind", HT[2:], ids=named)
def test_wrong_gradients_are_caught(kind: dict):
    world = done(**kind)
    world.buffers[1].combined_weights[3, 1] += 1
    with pytest.raises(WrongData, match=r"combined topk_weights\[3, 1\]"):
        check_all(world)


def test_other_libraries_may_write_up_to_the_budget():
    world = done(**HT_FLAT, tokens=5, budget=25)
    row_too_many(world)
    check_all(world, ordered=False)
    world.buffers[1].received[-1] = 0
    with pytest.raises(WrongData, match="behind the budget"):
        check_all(world, ordered=False)


@pytest.mark.parametrize("kind", [{}, HT_EM], ids=["ll", "ht"])
def test_a_library_that_promises_no_order_may_swap_rows_but_lose_none(kind: dict):
    world = done(**kind)
    swapped_rows(world)
    if kind:  # with their weights
        weights, first = world.buffers[1].received_weights, used_rows(world)[0]
        weights[first : first + 2] = weights[[first + 1, first]]
    zones = [
        check_dispatch(world.device, buffers, world.inputs, rank, ordered=False)
        for rank, buffers in enumerate(world.buffers)
    ]
    zone = used_zone(world)
    assert zones[1][zone][:2] == world.inputs.zones.of_rank(1)[zone].tokens[1::-1].tolist()
    lost_row(world)
    with pytest.raises(WrongData, match="the tokens of rows"):
        check_dispatch(world.device, world.buffers[1], world.inputs, 1, ordered=False)


def test_messages_name_the_place_the_value_and_what_was_expected():
    world = done()
    wrong_count(world)
    with pytest.raises(WrongData, match=r"expert_counters\[0\] is \d+, expected \d+"):
        check_all(world)

# SPDX-License-Identifier: Apache-2.0
"""Recipes in ep_bench: what their rows are, and that verification catches what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bench_cases import World, case, named

from ep_bench.exits import UsageError
from ep_bench.expect import WrongData
from ep_bench.inputs import Inputs
from ep_bench.options import parse, settle
from ep_bench.oracle import combined
from ep_bench.recipes import recipe_of
from ep_bench.tokens import Rows
from ep_bench.traffic import ideal_remote_bytes, remote_routes
from ep_bench.verify import check_combine, check_dispatch

FORWARDED = ["fwd:e4m3/fp32", "fwd:e5m2/bf16/64", "fwd:fp32/uint8/7", "fwd:bf16/fp16/4", "mxfp8", "nvfp4"]
HIDDEN = 896  # a multiple of every group
HT_EM = {"algorithm": "ht", "layout": "em", "alignment": 4}
KINDS = [
    {"layout": "em"},
    {"layout": "rm"},
    {"algorithm": "ht", "layout": "fl"},
    HT_EM,
    {**HT_EM, "pass_direction": "bwd", "num_teams": 2},
    {"algorithm": "ht", "layout": "fl", "budget": 9, "overflow": "drop"},
]


def done(recipe: str, **changes) -> World:
    world = World(case(**{"hidden": HIDDEN, "tokens": 5, **changes, "recipe": recipe_of(recipe)}))
    world.count()
    world.dispatch()
    world.combine()
    return world


def check_all(world: World) -> None:
    ranks = list(enumerate(world.buffers))
    zones = [check_dispatch(world.device, b, world.inputs, rank, ordered=True) for rank, b in ranks]
    for rank, buffers in ranks:
        check_combine(world.device, buffers, world.inputs, rank, combined(world.inputs, rank, zones))


@pytest.mark.parametrize("kind", KINDS, ids=named)
@pytest.mark.parametrize("recipe", [*FORWARDED, "ds-fp8"])
def test_right_results_are_accepted(kind: dict, recipe: str):
    check_all(done(recipe, **kind))


@pytest.mark.parametrize(("algorithm", "layout"), [("ll", "em"), ("ll", "rm"), ("ht", "em"), ("ht", "fl")])
@pytest.mark.parametrize("num_teams", [1, 2])
def test_right_sums_of_quantized_rows_are_accepted(algorithm: str, layout: str, num_teams: int):
    check_all(done("fp8-combine", algorithm=algorithm, layout=layout, num_ranks=4, num_teams=num_teams))


@pytest.mark.parametrize("layout", ["em", "rm"])
def test_right_sums_of_nvfp4_rows_are_accepted_and_wrong_ones_caught(layout: str):
    world = done("nvfp4-combine", layout=layout)
    check_all(world)
    sums = world.buffers[2].combined
    column = int(np.argmax(np.abs(sums[3].astype(np.float32))))
    sums[3, column] *= 1.5
    with pytest.raises(WrongData, match=rf"combined tokens\[3, {column}\]"):
        check_all(world)


def test_global_scales_are_those_of_the_rows():
    world = done("nvfp4-combine", layout="em")
    for rank, buffers in enumerate(world.buffers):
        rows, scales = world.rows(buffers.expert_rows), buffers.global_scales.reshape(-1)
        used = np.zeros(len(rows), bool)
        for zone in world.inputs.zones.of_rank(rank):
            used[zone.first : zone.first + len(zone.tokens)] = True
        most = np.abs(rows[used].astype(np.float32)).max(axis=1)
        np.testing.assert_array_equal(scales[used], (2688 / most.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("algorithm", ["ll", "ht"])
def test_exact_sums_are_rounded_once(algorithm: str):
    world = done("exact", algorithm=algorithm, layout="em")
    check_all(world)
    sums = world.buffers[2].combined
    row = int(np.argmax(np.abs(sums.astype(np.float32)).sum(axis=1)))
    sums[row] = (sums[row].astype(np.float32) * (1 + 3 / 256)).astype(sums.dtype)
    with pytest.raises(WrongData, match="combined tokens"):
        check_all(world)


def used_rows(world: World) -> tuple[int, int]:
    """First row of rank 1's fullest zone, and how many are used."""
    zone = max(world.inputs.zones.of_rank(1), key=lambda zone: len(zone.tokens))
    return zone.first, len(zone.tokens)


def top_bit_of(part: int) -> Callable[[World], None]:
    """Changes the last element, or scale, of a row: in FP8 and all scales by more than any rounding."""

    def spoil(world: World) -> None:
        array = world.received(1)[part]
        array.view(np.uint8)[used_rows(world)[0], -1] ^= 0x40

    return spoil


def swapped(part: int) -> Callable[[World], None]:
    """Two rows have each other's elements, or scales."""

    def spoil(world: World) -> None:
        array, (first, _) = world.received(1)[part], used_rows(world)
        array[first : first + 2] = array[[first + 1, first]]

    return spoil


def one_too_many(part: int) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        zone = next(zone for zone in reversed(world.inputs.zones.of_rank(1)) if zone.has_spare)
        world.received(1)[part][zone.first + len(zone.tokens) + zone.padding] = 0

    return spoil


@pytest.mark.parametrize("part", [0, 1], ids=["elements", "scales"])
@pytest.mark.parametrize("kind", KINDS, ids=named)
@pytest.mark.parametrize("spoil", [top_bit_of, swapped, one_too_many])
@pytest.mark.parametrize("recipe", ["fwd:e4m3/fp32", "nvfp4", "ds-fp8"])
def test_wrong_results_are_caught(recipe: str, spoil: Callable, kind: dict, part: int):
    world = done(recipe, **kind)
    spoil(part)(world)
    with pytest.raises(WrongData):
        check_all(world)


@pytest.mark.parametrize("recipe", ["mxfp8", "ds-fp8"])
def test_padding_has_scales_of_zero(recipe: str):
    world = done(recipe, **HT_EM)
    zone = next(zone for zone in world.inputs.zones.of_rank(1) if zone.padding)
    world.received(1)[1][zone.first + len(zone.tokens), 1] = 1
    with pytest.raises(WrongData, match="padding"):
        check_all(world)


def test_a_quantized_number_may_be_a_neighbour_but_no_further():
    world = done("ds-fp8")
    elements, (first, _) = world.received(1)[0], used_rows(world)
    bits = elements.view(np.uint8)[first]
    column = int(np.argmax(np.abs(elements[first].astype(np.float32))))
    bits[column] -= 2
    with pytest.raises(WrongData, match=rf"number x scale\[0, {column}\] is .* within"):
        check_all(world)


def test_a_scale_may_be_rounded_but_no_more():
    for off, is_wrong in ((2.0**-22, False), (2.0**-14, True)):
        world = done("ds-fp8")
        scales, (first, _) = world.received(1)[1], used_rows(world)
        scales[first, 3] *= 1 + off
        if is_wrong:
            with pytest.raises(WrongData, match=r"scales\[0, 3\] is .* within"):
                check_all(world)
        else:
            check_all(world)


def test_what_is_allowed_of_quantized_sums_is_not_allowed_of_others():
    for recipe, is_wrong in (("fp8-combine", False), ("none", True)):
        world = done(recipe)
        sums = world.buffers[2].combined
        sums[:] = (done("none").buffers[2].combined.astype(np.float32) * (1 + 1 / 64)).astype(sums.dtype)
        if is_wrong:
            with pytest.raises(WrongData, match="combined tokens"):
                check_all(world)
        else:
            check_all(world)
    world = done("fp8-combine")
    world.buffers[2].combined[3] *= 1.25
    with pytest.raises(WrongData, match=r"combined tokens\[3, "):
        check_all(world)


@pytest.mark.parametrize("recipe", ["fwd:fp32/fp32", "nvfp4"])
def test_every_row_says_which_token_it_is_and_garbage_none(recipe: str):
    inputs = Inputs(case(tokens=5000, hidden=128, recipe=recipe_of(recipe)))
    ids = inputs.token_ids(3)
    rows = inputs.tokens.rows(ids)
    assert (inputs.tokens.identify(rows) == ids).all()
    garbage = Rows(np.full_like(rows.elements, 0xFF), rows.scales)
    assert (inputs.tokens.identify(garbage) == -1).all()


def test_bytes_are_those_that_travel():
    per_row = {
        "none": (256, 256),
        "fwd:e4m3/fp32": (128 + 4, 256),
        "mxfp8": (128 + 4, 256),
        "nvfp4": (64 + 8, 256),
        "ds-fp8": (128 + 4, 256),
        "fp8-combine": (256, 128 + 4),
        "nvfp4-combine": (256, 64 + 8),
    }
    plain = Inputs(case(hidden=128))
    num_rows = ideal_remote_bytes(plain, "dispatch") / 256
    for recipe, (there, back) in per_row.items():
        inputs = Inputs(case(hidden=128, recipe=recipe_of(recipe)))
        found = [ideal_remote_bytes(inputs, trip) / num_rows for trip in ("dispatch", "combine")]
        assert found == pytest.approx([there, back]), recipe
    exact = Inputs(case(hidden=128, recipe=recipe_of("exact")))
    assert ideal_remote_bytes(exact, "dispatch") == num_rows * 256
    assert ideal_remote_bytes(exact, "combine") == remote_routes(exact) * 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fp8",
            "'fp8' is unknown, expected none, mxfp8, nvfp4, ds-fp8, fp8-combine, nvfp4-combine, exact or fwd",
        ),
        ("fwd:e4m3", "is unknown, expected none"),
        ("fwd:e4m3/fp32/0", "is unknown, expected none"),
        ("fwd:e4m3/fp32/128/1", "is unknown, expected none"),
        ("fwd:uint8/fp32", "'uint8' is unknown, expected e4m3, e5m2, float4x2"),
        ("fwd:e4m3/float4x2", "'float4x2' is unknown, expected fp32, fp16"),
    ],
)
def test_what_is_no_recipe_is_said(text: str, message: str, capsys):
    with pytest.raises(SystemExit):
        parse(["--recipe", text])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--algorithm ht --recipe fp8-combine --pass fwd,bwd", "--pass bwd: expected fwd with --recipe"),
        ("--algorithm ht --recipe nvfp4-combine", "--algorithm ht: expected ll with --recipe nvfp4-combine"),
        ("--recipe nvfp4-combine --dtype fp32", "--dtype fp32: expected bf16 with --recipe nvfp4-combine"),
        ("--recipe nvfp4-combine --hidden 48", "a row of --recipe nvfp4-combine has 24 bytes"),
        ("--recipe exact --layout em,rm", "--layout em,rm: expected em with --recipe exact"),
        ("--recipe ds-fp8 --dtype fp16", "--dtype fp16: expected bf16 with --recipe ds-fp8"),
        ("--recipe fp8-combine --hidden 64", "--hidden 64: expected a multiple of 128"),
        ("--recipe fwd:e4m3/fp32/8 --hidden 24", "a row of --recipe fwd:e4m3/fp32/8 has 24 bytes"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: str, message: str):
    with pytest.raises(UsageError, match=message):
        settle(parse(arguments.split()), "cuda", 4).sweep.cases(4, 1)


def test_low_latency_has_no_windows_for_what_it_quantizes():
    def in_windows(recipe: str, *more: str) -> list[bool]:
        given = parse(["--zero-copy", "--recipe", recipe, "--tokens", "8", *more])
        return [case.zero_copy for case in settle(given, "cuda", 4).sweep.cases(4, 1)]

    assert in_windows("mxfp8") == [False, True]
    assert in_windows("ds-fp8") == [False, False]
    assert in_windows("ds-fp8", "--algorithm", "ht") == [True, True]

# SPDX-License-Identifier: Apache-2.0
"""Whether results are right: dispatch to the bit, combine within a tolerance of a float64 sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.buffers import Buffers
from ep_bench.devices.face import POISON_BYTE, Device
from ep_bench.expect import WrongData, expect_bits, expect_close, expect_equal
from ep_bench.inputs import Inputs
from ep_bench.oracle import Combined, ZoneTokens, hit_order
from ep_bench.tokens import Rows
from ep_bench.zones import Zone

Array = npt.NDArray[Any]

_BLOCK_TOKENS = 1024


def check_counters(device: Device, buffers: Buffers, inputs: Inputs, rank: int) -> None:
    """Compares what rows are counted with the routing. Raises WrongData, as all checks do."""
    for name, wanted in inputs.zones.counters(rank).items():
        expect_equal(device.read(buffers.counters[name], 0, wanted.shape), wanted, name)


def check_dispatch(
    device: Device, buffers: Buffers, inputs: Inputs, rank: int, *, ordered: bool
) -> ZoneTokens:
    """Compares everything that dispatch wrote with what it must have written.

    Args:
        ordered: whether rows must come in the order of (source rank, token), or in any order within a zone.
            In high throughput, only then must rows stay as they were from the first unused one on, else from
            the budget on.

    Returns:
        Which token each row of each zone holds.
    """
    if inputs.case.algorithm == "ll":
        check_counters(device, buffers, inputs, rank)
    zones: ZoneTokens = []
    for number, zone in enumerate(inputs.zones.of_rank(rank)):
        found = _check_rows(buffers, inputs, zone, f"zone {number}", ordered=ordered)
        if buffers.received_weights is not None:
            check = {"em": _check_slot_weights, "fl": _check_routes, "rm": _check_routes}[inputs.case.layout]
            check(device, buffers, inputs, rank, number, found)
        zones.append([int(token) for token in found])
    if inputs.case.algorithm == "ht":
        last = inputs.zones.num_rows - 1
        _expect_untouched(buffers.read_received(last, 1), f"row {last} of the output, behind the budget,")
    return zones


def _check_rows(buffers: Buffers, inputs: Inputs, zone: Zone, what: str, *, ordered: bool) -> Array:
    """The tokens that the rows of a zone hold."""
    rows, used = buffers.read_received(zone.first, zone.num_rows), len(zone.tokens)
    received, behind = rows.split(used)
    found = inputs.tokens.identify(received)
    in_order = found if ordered else np.sort(found)
    expect_equal(in_order, zone.tokens, f"{what}: the tokens of rows")
    inputs.tokens.check(received, found, what)
    padding, spare = behind.split(zone.padding)
    for part in padding.parts:
        expect_bits(part, np.zeros_like(part), f"{what}: padding")
    if ordered or inputs.case.algorithm == "ll":
        _expect_untouched(spare, f"{what}: row {used + zone.padding}")
    return found


def _check_slot_weights(
    device: Device, buffers: Buffers, inputs: Inputs, rank: int, number: int, tokens: Array
) -> None:
    """The weight beside each row of an expert."""
    routes, first = inputs.routes_of(tokens), inputs.zones.of_rank(rank)[number].first
    mine = routes.topk_idx == rank * inputs.case.local_experts + number
    found = device.read(buffers.received_weights, first, (len(tokens),))
    expect_bits(found, routes.topk_weights[mine], f"zone {number}: topk_weights")


def _check_routes(
    device: Device, buffers: Buffers, inputs: Inputs, rank: int, number: int, tokens: Array
) -> None:
    """Expert ids of a zone's rows, -1 where there is none, and the weights beside them."""
    case, routes, what = inputs.case, inputs.routes_of(tokens), f"zone {number}"
    first = inputs.zones.of_rank(rank)[number].first * case.top_k
    local, weights = inputs.leads_to(routes.topk_idx, rank), routes.topk_weights
    ids = np.where(local, routes.topk_idx - rank * case.local_experts, -1)
    if case.layout == "fl":  # the experts of this rank come first
        order = np.argsort(hit_order(inputs, routes.topk_idx, rank), axis=1)
        local, ids, weights = (np.take_along_axis(values, order, axis=1) for values in (local, ids, weights))
    else:  # unused rows have ids, too
        ids = np.concatenate([ids, np.full((case.tokens - len(ids), case.top_k), -1)])
    found_idx = device.read(buffers.received_idx, first, ids.shape)
    found_weights = device.read(buffers.received_weights, first, weights.shape)
    expect_equal(found_idx, ids, f"{what}: topk_idx")
    expect_bits(found_weights[local], weights[local], f"{what}: topk_weights")


def check_combine(device: Device, buffers: Buffers, inputs: Inputs, rank: int, wanted: Combined) -> None:
    """Compares what combine wrote with what it must have written, nearly."""
    hidden = inputs.case.hidden
    for first in range(0, inputs.num_tokens(rank), _BLOCK_TOKENS):
        block = slice(first, first + _BLOCK_TOKENS)
        numbers, allowed = wanted.tokens[block], wanted.allowed[block]
        found = device.read(buffers.combined, first * hidden, numbers.shape).astype(np.float64)
        expect_close(found, numbers, allowed, "combined tokens", first)
    if wanted.weights is not None:
        gradients = device.read(buffers.combined_weights, 0, wanted.weights.shape)
        expect_bits(gradients, wanted.weights, "combined topk_weights")


def _expect_untouched(rows: Rows, what: str) -> None:
    for part in rows.parts:
        if (part.view(np.uint8) != POISON_BYTE).any():
            raise WrongData(f"{what} was overwritten, expected what was there before")

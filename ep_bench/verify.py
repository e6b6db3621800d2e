# SPDX-License-Identifier: Apache-2.0
"""Whether results are right: dispatch to the bit, combine within a tolerance of a float64 sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.buffers import Buffers
from ep_bench.devices.face import POISON_BYTE, Device
from ep_bench.inputs import Inputs
from ep_bench.oracle import Combined, ZoneTokens, hit_order
from ep_bench.zones import Zone

Array = npt.NDArray[Any]

_BLOCK_TOKENS = 1024


class WrongData(Exception):
    """A result is not what it must be."""


def check_counters(device: Device, buffers: Buffers, inputs: Inputs, rank: int) -> None:
    """Compares what rows are counted with the routing. Raises WrongData, as all checks do."""
    for name, wanted in inputs.zones.counters(rank).items():
        _expect_equal(device.read(buffers.counters[name], 0, wanted.shape), wanted, name)


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
        found = _check_rows(device, buffers, inputs, zone, f"zone {number}", ordered=ordered)
        if buffers.received_weights is not None:
            check = {"em": _check_slot_weights, "fl": _check_routes, "rm": _check_routes}[inputs.case.layout]
            check(device, buffers, inputs, rank, number, found)
        zones.append([int(token) for token in found])
    if inputs.case.algorithm == "ht":
        last = inputs.zones.num_rows - 1
        rows = device.read(buffers.received, last * inputs.case.hidden, (1, inputs.case.hidden))
        _expect_untouched(rows, f"row {last} of the output, behind the budget,")
    return zones


def _check_rows(
    device: Device, buffers: Buffers, inputs: Inputs, zone: Zone, what: str, *, ordered: bool
) -> Array:
    """The tokens that the rows of a zone hold."""
    hidden, used = inputs.case.hidden, len(zone.tokens)
    rows = device.read(buffers.received, zone.first * hidden, (zone.num_rows, hidden))
    found = inputs.identify(rows[:used])
    in_order = found if ordered else np.sort(found)
    _expect_equal(in_order, zone.tokens, f"{what}: the tokens of rows")
    _expect_bits(rows[:used], inputs.token_rows(found), f"{what}: row")
    padding, spare = np.split(rows[used:], [zone.padding])
    _expect_bits(padding, np.zeros_like(padding), f"{what}: padding")
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
    _expect_bits(found, routes.topk_weights[mine], f"zone {number}: topk_weights")


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
    _expect_equal(found_idx, ids, f"{what}: topk_idx")
    _expect_bits(found_weights[local], weights[local], f"{what}: topk_weights")


def check_combine(device: Device, buffers: Buffers, inputs: Inputs, rank: int, wanted: Combined) -> None:
    """Compares what combine wrote with what it must have written, nearly."""
    hidden = inputs.case.hidden
    for first in range(0, inputs.num_tokens(rank), _BLOCK_TOKENS):
        block = slice(first, first + _BLOCK_TOKENS)
        numbers, allowed = wanted.tokens[block], wanted.allowed[block]
        found = device.read(buffers.combined, first * hidden, numbers.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(found - numbers) <= allowed)  # so that NaN is wrong
        if wrong.any():
            token, column = (int(i) for i in np.argwhere(wrong)[0])
            raise WrongData(
                f"combined token {first + token}, column {column} is {found[token, column]:.6g}, expected "
                f"{numbers[token, column]:.6g} within {allowed[token, column]:.2g}; {wrong.sum()} of "
                f"{wrong.size} numbers are wrong"
            )
    if wanted.weights is not None:
        gradients = device.read(buffers.combined_weights, 0, wanted.weights.shape)
        _expect_bits(gradients, wanted.weights, "combined topk_weights")


def _expect_untouched(rows: Array, what: str) -> None:
    if (rows.view(np.uint8) != POISON_BYTE).any():
        raise WrongData(f"{what} was overwritten, expected what was there before")


def _expect_equal(found: Array, wanted: Array, what: str) -> None:
    if not np.array_equal(found, wanted):
        place = tuple(int(i) for i in np.argwhere(found != wanted)[0])
        raise WrongData(f"{what}{list(place)} is {found[place]}, expected {wanted[place]}")


def _expect_bits(found: Array, wanted: Array, what: str) -> None:
    bits = f"u{wanted.dtype.itemsize}"
    differ = np.ascontiguousarray(found).view(bits) != np.ascontiguousarray(wanted).view(bits)
    if differ.any():
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        raise WrongData(f"{what}{list(place)} is {found[place]}, expected {wanted[place]} to the bit")

# SPDX-License-Identifier: Apache-2.0
"""Whether results are right. Dispatch must be right to the bit, combine within a tolerance of a float64 sum.

The tolerance of a combined number, with w x its summands: ``(eps(dtype) + (K + R) 2**-24) * sum |w x|``, and
a subnormal of the type for each rank. That covers a rounding of each rank's part and of the result to the
type, and any order of float32 sums over K routes and R ranks.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ep_bench.buffers import Buffers
from ep_bench.devices.face import POISON_BYTE, Device
from ep_bench.inputs import Inputs

Array = npt.NDArray[Any]
ZoneTokens = list[list[int]]


class WrongData(Exception):
    """A result is not what it must be."""


def check_dispatch(
    device: Device, buffers: Buffers, inputs: Inputs, rank: int, *, ordered: bool
) -> ZoneTokens:
    """Compares everything that dispatch wrote with what it must have written.

    Args:
        ordered: whether rows must come in the order of (source rank, token), or in any order within a zone.

    Returns:
        Which token each row of each zone holds.

    Raises:
        WrongData: something is wrong.
    """
    case = inputs.case
    counters = device.read(buffers.counters, 0, (case.num_zones,))
    zones: ZoneTokens = []
    for zone in range(case.num_zones):
        wanted = inputs.zone_tokens(rank, zone)
        if counters[zone] != len(wanted):
            raise WrongData(f"zone {zone}: the counter is {counters[zone]}, expected {len(wanted)} rows")
        first, count = buffers.checked_rows(zone)
        rows = device.read(buffers.received, first * case.hidden, (count, case.hidden))
        found = inputs.identify(rows[: len(wanted)])
        in_order = found if ordered else np.sort(found)
        _expect_equal(in_order, wanted, f"zone {zone}: the tokens of rows")
        _expect_bits(
            rows[: len(wanted)], inputs.token_rows(wanted if ordered else found), f"zone {zone}: row"
        )
        if (rows[len(wanted) :].view(np.uint8) != POISON_BYTE).any():
            raise WrongData(f"zone {zone}: row {len(wanted)} was overwritten, expected {len(wanted)} rows")
        zones.append([int(token) for token in found])
    if case.layout == "rm":
        _check_routes(device, buffers, inputs, rank, zones)
    return zones


def check_combine(
    device: Device, buffers: Buffers, inputs: Inputs, rank: int, zones: list[ZoneTokens]
) -> None:
    """Compares what combine wrote with the sum in float64; ``zones`` as :func:`check_dispatch` says it for
    each rank."""
    case = inputs.case
    shape = (inputs.num_tokens(rank), case.hidden)
    found = device.read(buffers.combined, 0, shape).astype(np.float64)
    wanted, magnitude = combine_oracle(inputs, rank, zones)
    info: Any = ml_dtypes.finfo(inputs.dtype)  # type: ignore[no-untyped-call]
    relative = float(info.eps) + (case.top_k + case.num_ranks) * 2.0**-24
    allowed = relative * magnitude + (case.num_ranks + 1) * float(info.smallest_subnormal)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(found - wanted) <= allowed)  # so that NaN is wrong
    if wrong.any():
        token, column = (int(i) for i in np.argwhere(wrong)[0])
        raise WrongData(
            f"combined token {token}, column {column} is {found[token, column]:.6g}, expected "
            f"{wanted[token, column]:.6g} within {allowed[token, column]:.2g}; {wrong.sum()} of {wrong.size} "
            f"numbers are wrong"
        )


def combine_oracle(inputs: Inputs, rank: int, zones: list[ZoneTokens]) -> tuple[Array, Array]:
    """``[b, H]`` float64: a rank's combined tokens, and the sums of their summands' absolute values."""
    total = np.zeros((inputs.num_tokens(rank), inputs.case.hidden))
    magnitude = np.zeros_like(total)
    for tokens, weights, rows in _summands(inputs, rank, zones):
        summands = weights[:, None].astype(np.float64) * rows.astype(np.float64)
        total[tokens] += summands
        magnitude[tokens] += np.abs(summands)
    return total, magnitude


def _summands(inputs: Inputs, rank: int, zones: list[ZoneTokens]) -> Any:
    """Yields (tokens, their weights, their rows), each token at most once a time."""
    case, routing, ids = inputs.case, inputs.routing[rank], inputs.token_ids(rank)
    for peer in range(case.num_ranks):
        places = _places(zones[peer], case.num_ranks * case.tokens)
        if case.layout == "rm":
            tokens = np.flatnonzero(inputs.goes_to(rank, peer))
            yield tokens, np.ones(len(tokens)), inputs.expert_rows(peer, rank, places[rank][ids[tokens]])
            continue
        local = inputs.is_local(rank, peer)
        for k in range(case.top_k):
            tokens = np.flatnonzero(local[:, k])
            zone = routing.topk_idx[tokens, k] % case.local_experts
            rows = inputs.expert_rows(peer, zone, places[zone, ids[tokens]])
            yield tokens, routing.topk_weights[tokens, k], rows


def _places(zones: ZoneTokens, num_tokens: int) -> Array:
    """``[zones, tokens of the world]``: the row of each token in each zone."""
    places = np.full((len(zones), num_tokens), -1)
    for zone, tokens in enumerate(zones):
        places[zone, tokens] = np.arange(len(tokens))
    return places


def _check_routes(device: Device, buffers: Buffers, inputs: Inputs, rank: int, zones: ZoneTokens) -> None:
    """Rank-major: expert ids of all rows, -1 where there is none, and the weights beside them."""
    case = inputs.case
    shape = (case.num_zones, case.zone_rows, case.top_k)
    found_idx = device.read(buffers.received_idx, 0, shape)
    found_weights = device.read(buffers.received_weights, 0, shape)
    for source, ids in enumerate(zones):
        tokens = np.asarray(ids, np.int64) - source * case.tokens
        local = inputs.is_local(source, rank)[tokens]
        routing = inputs.routing[source]
        wanted = np.full(shape[1:], -1)
        wanted[: len(ids)] = np.where(local, routing.topk_idx[tokens] - rank * case.local_experts, -1)
        _expect_equal(found_idx[source], wanted, f"zone {source}: topk_idx")
        weights = found_weights[source, : len(ids)]
        _expect_bits(weights[local], routing.topk_weights[tokens][local], f"zone {source}: topk_weights")


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

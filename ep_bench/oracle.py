# SPDX-License-Identifier: Apache-2.0
"""What combine must give, from what combine's inputs hold: sums in float64, and how far off a sum may be.

The tolerance of a number, with w x its summands: ``(n eps(dtype) / 2 + (K + R) 2**-24) * sum |w x|``, and a
subnormal of the type for each rounded sum. That covers n roundings to the type on a summand's way, and any
order of float32 sums over K routes and R ranks. The result is rounded; what a rank sends, too, unless rows
travel one by one (exact); in high throughput across LSA teams also what a team sends home. With FP8 or NVFP4
on the way home, what each rank sends also has the error of quantizing; in high throughput across LSA teams
also what a team sends home.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ep_bench.inputs import Inputs
from ep_bench.tokens import nvfp4_error, quantization_error

Array = npt.NDArray[Any]
ZoneTokens = list[list[int]]


@dataclass(frozen=True)
class Combined:
    """One rank's results of combine.

    Attributes:
        tokens: ``[b, H]`` float64.
        allowed: how far off each number may be.
        weights: the gradients of the weights, ``[b, K]``, or None in the forward pass.
    """

    tokens: Array
    allowed: Array
    weights: Array | None


def combined(inputs: Inputs, rank: int, zones: list[ZoneTokens]) -> Combined:
    """A rank's results. ``zones`` says for each rank which token each row of each zone holds."""
    case = inputs.case
    total = np.zeros((inputs.num_tokens(rank), case.hidden))
    magnitude = np.zeros_like(total)
    quantized: Array | float = 0.0
    teams = case.num_teams if case.algorithm == "ht" else 1
    crossing: dict[int, tuple[Array, Array]] = {}  # of other teams: their sums and how far off they may be
    backward = case.pass_direction == "bwd"
    gradients = np.zeros((len(total), case.top_k), np.float32) if backward else None
    for peer in range(case.num_ranks):
        places = _places(inputs, peer, zones[peer])
        part = np.zeros_like(total) if case.recipe.quantizes_combine else total
        limits = np.zeros(len(total))  # of the parts' magnitudes, by the rows' global scales
        for tokens, weights, numbers in _summands(inputs, rank, peer, places):
            rows = inputs.expert_rows(peer, numbers).astype(np.float64)
            if weights is not None:
                rows *= weights[:, None]
            part[tokens] += rows
            magnitude[tokens] += np.abs(rows)
            limits[tokens] += np.abs(rows).max(axis=1, initial=0)
        if case.recipe.quantizes_combine:
            total += part
            error = nvfp4_error(part, limits) if case.recipe.has_global_scales else quantization_error(part)
            quantized = quantized + error
            if teams > 1 and peer // case.team_size != rank // case.team_size:
                before = crossing.get(peer // case.team_size, (0, 0))
                crossing[peer // case.team_size] = (before[0] + part, before[1] + error)
        if gradients is not None:
            _add_gradients(gradients, inputs, rank, peer, places)
    info: Any = ml_dtypes.finfo(inputs.dtype)  # type: ignore[no-untyped-call]
    for part, error in crossing.values():  # quantized once more
        quantized = quantized + quantization_error(np.abs(part) + error)
    num_roundings = 1 if case.recipe.exact else 3 if teams > 1 else 2
    magnitude *= num_roundings * float(info.eps) / 2 + (case.top_k + case.num_ranks) * 2.0**-24
    magnitude += (case.num_ranks + teams) * float(info.smallest_subnormal)
    return Combined(total, magnitude + quantized * (1 + float(info.eps)), gradients)


def _summands(
    inputs: Inputs, rank: int, peer: int, places: Array
) -> Iterator[tuple[Array, Array | None, Array]]:
    """Yields (tokens, their weights if combine applies them, their rows' numbers on a peer), each token at
    most once a time."""
    case, routing, ids = inputs.case, inputs.routing[rank], inputs.token_ids(rank)
    if case.layout != "em":
        numbers = places[rank if case.layout == "rm" else 0][ids]
        tokens = np.flatnonzero(inputs.goes_to(rank, peer) & (numbers >= 0))
        yield tokens, None, numbers[tokens]
        return
    local = inputs.is_local(rank, peer)
    for k in range(case.top_k):
        tokens = np.flatnonzero(local[:, k])
        numbers = places[routing.topk_idx[tokens, k] % case.local_experts, ids[tokens]]
        tokens, numbers = tokens[numbers >= 0], numbers[numbers >= 0]
        weights = routing.topk_weights[tokens, k] if case.algorithm == "ll" else None
        yield tokens, weights, numbers


def _add_gradients(gradients: Array, inputs: Inputs, rank: int, peer: int, places: Array) -> None:
    """Gives each route to a peer what the peer's rows say of it; a dropped one has no gradient."""
    case, topk_idx, ids = inputs.case, inputs.routing[rank].topk_idx, inputs.token_ids(rank)
    tokens, ks = np.nonzero(inputs.is_local(rank, peer))
    if case.layout == "em":
        numbers = places[topk_idx[tokens, ks] % case.local_experts, ids[tokens]]
        columns = np.zeros_like(numbers)
    else:
        numbers, columns = places[0][ids[tokens]], hit_order(inputs, topk_idx, peer)[tokens, ks]
    kept = numbers >= 0
    tokens, ks, columns = tokens[kept], ks[kept], columns[kept]
    gradients[tokens, ks] = inputs.expert_weights(peer, numbers[kept])[np.arange(len(tokens)), columns]


def hit_order(inputs: Inputs, topk_idx: Array, rank: int) -> Array:
    """``[n, K]``: which of a token's experts on a rank each route leads to, in ascending order; routes that
    lead elsewhere come last."""
    here = np.where(inputs.leads_to(topk_idx, rank), topk_idx, inputs.case.experts)
    return np.asarray(np.argsort(np.argsort(here, axis=1, kind="stable"), axis=1))


def _places(inputs: Inputs, rank: int, zones: ZoneTokens) -> Array:
    """``[zones, tokens of the world]``: the row of each token in each zone of a rank, -1 where it is not."""
    places = np.full((len(zones), inputs.case.num_ranks * inputs.case.tokens), -1)
    for place, tokens, zone in zip(places, zones, inputs.zones.of_rank(rank), strict=True):
        place[tokens] = zone.first + np.arange(len(tokens))
    return places

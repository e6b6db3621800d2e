# SPDX-License-Identifier: Apache-2.0
"""Bytes that cross links, computed from the routing. All are per rank: the mean over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.inputs import Inputs

Array = npt.NDArray[Any]

ROUTE_BYTES = 16
"""What a route is taken to cost beside its row when bytes are computed: its metadata and flags."""


def remote_rows(inputs: Inputs) -> float:
    """Rows that must cross links, each way.

    One for each token and each remote rank that receives it. High throughput across LSA teams hosts tokens:
    one for each token and each other team, to the rank there that hosts it, and one for each token and each
    rank of a team that receives it but does not host it.
    """
    if inputs.case.algorithm == "ll":
        return _mean_over_ranks(inputs, lambda rank: len(_from_others(inputs, rank)))
    passed_on = _mean_over_ranks(inputs, lambda rank: len(_from_hosts(inputs, rank)))
    guests = sum(len(_guests(inputs, team)) for team in range(inputs.case.num_teams))
    return passed_on + guests / inputs.case.num_ranks


def remote_routes(inputs: Inputs) -> float:
    """Routes that lead to other ranks, and are not dropped there."""
    return _mean_over_ranks(inputs, lambda rank: _routes_to(inputs, rank))


def rows_home_of_routes(inputs: Inputs) -> float:
    """Links that a row for each route crosses on its way home, in high throughput by way of the host."""
    return _mean_over_ranks(inputs, lambda rank: _links_home(inputs, rank))


def ideal_remote_bytes(inputs: Inputs, trip: str) -> float:
    """Bytes of those rows alone with their scales, in ``dispatch`` or ``combine``.

    Exact sums need a row for each route.
    """
    formats = {"dispatch": inputs.case.received, "combine": inputs.case.returned}
    exact = trip == "combine" and inputs.case.recipe.exact
    return (rows_home_of_routes(inputs) if exact else remote_rows(inputs)) * formats[trip].num_bytes


def computed_remote_bytes(inputs: Inputs, trip: str) -> float:
    """Bytes of rows and an allowance for metadata. Used where links have no counters."""
    return ideal_remote_bytes(inputs, trip) + remote_routes(inputs) * ROUTE_BYTES


def _links_home(inputs: Inputs, rank: int) -> int:
    team_size = inputs.case.team_size if inputs.case.algorithm == "ht" else inputs.case.num_ranks
    links = 0
    for zone in inputs.zones.of_rank(rank):
        homes = _sources(inputs, zone.tokens)
        links += int((homes // team_size != rank // team_size).sum())
        links += int((homes % team_size != rank % team_size).sum())
    return links


def _routes_to(inputs: Inputs, rank: int) -> int:
    if inputs.case.layout == "em":
        return sum(int((_sources(inputs, zone.tokens) != rank).sum()) for zone in inputs.zones.of_rank(rank))
    routes = inputs.routes_of(_from_others(inputs, rank))
    return int(inputs.leads_to(routes.topk_idx, rank).sum())


def _from_others(inputs: Inputs, rank: int) -> Array:
    """Tokens that a rank receives from other ranks."""
    tokens = inputs.zones.arrivals(rank)
    return np.asarray(tokens[_sources(inputs, tokens) != rank])


def _from_hosts(inputs: Inputs, rank: int) -> Array:
    """Tokens that a rank receives and another rank of its LSA team hosts: the one with the source's place."""
    tokens, size = inputs.zones.arrivals(rank), inputs.case.team_size
    return np.asarray(tokens[_sources(inputs, tokens) % size != rank % size])


def _guests(inputs: Inputs, team: int) -> Array:
    """Tokens of other LSA teams that ranks of a team receive, each once."""
    size = inputs.case.team_size
    tokens = np.unique(np.concatenate([inputs.zones.arrivals(team * size + place) for place in range(size)]))
    return np.asarray(tokens[_sources(inputs, tokens) // size != team])


def _sources(inputs: Inputs, tokens: Array) -> Array:
    return np.asarray(tokens // inputs.case.tokens)


def _mean_over_ranks(inputs: Inputs, count: Callable[[int], int]) -> float:
    return sum(count(rank) for rank in range(inputs.case.num_ranks)) / inputs.case.num_ranks

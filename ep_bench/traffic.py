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
    """Rows that must cross links, each way: one for each token and each remote rank that receives it."""
    return _mean_over_ranks(inputs, lambda rank: len(_from_others(inputs, rank, inputs.zones.arrivals(rank))))


def remote_routes(inputs: Inputs) -> float:
    """Routes that lead to other ranks, and are not dropped there."""
    return _mean_over_ranks(inputs, lambda rank: _routes_to(inputs, rank))


def ideal_remote_bytes(inputs: Inputs) -> float:
    """Bytes of those rows alone, one way."""
    return remote_rows(inputs) * inputs.case.row_bytes


def computed_remote_bytes(inputs: Inputs) -> float:
    """Bytes of rows and an allowance for metadata, one way. Used where links have no counters."""
    return ideal_remote_bytes(inputs) + remote_routes(inputs) * ROUTE_BYTES


def _routes_to(inputs: Inputs, rank: int) -> int:
    if inputs.case.layout == "em":
        return sum(len(_from_others(inputs, rank, zone.tokens)) for zone in inputs.zones.of_rank(rank))
    tokens = _from_others(inputs, rank, inputs.zones.arrivals(rank))
    return int(inputs.leads_to(inputs.routes_of(tokens).topk_idx, rank).sum())


def _from_others(inputs: Inputs, rank: int, token_ids: Array) -> Array:
    return np.asarray(token_ids[token_ids // inputs.case.tokens != rank])


def _mean_over_ranks(inputs: Inputs, count: Callable[[int], int]) -> float:
    return sum(count(rank) for rank in range(inputs.case.num_ranks)) / inputs.case.num_ranks

# SPDX-License-Identifier: Apache-2.0
"""Bytes that cross links, computed from the routing. All are per rank: the mean over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ep_bench.inputs import Inputs

ROUTE_BYTES = 16
"""What a route is taken to cost beside its row when bytes are computed: its metadata and flags."""


def remote_rows(inputs: Inputs) -> float:
    """Rows that must cross links, each way: one for each token and each remote rank that it goes to."""
    return _mean_over_links(inputs, lambda source, rank: np.sum(inputs.goes_to(source, rank)))


def remote_routes(inputs: Inputs) -> float:
    """Routes that lead to other ranks."""
    return _mean_over_links(inputs, lambda source, rank: np.sum(inputs.is_local(source, rank)))


def ideal_remote_bytes(inputs: Inputs) -> float:
    """Bytes of those rows alone, one way."""
    return remote_rows(inputs) * inputs.case.row_bytes


def computed_remote_bytes(inputs: Inputs) -> float:
    """Bytes of rows and an allowance for metadata, one way. Used where links have no counters."""
    return ideal_remote_bytes(inputs) + remote_routes(inputs) * ROUTE_BYTES


def _mean_over_links(inputs: Inputs, count: Callable[[int, int], Any]) -> float:
    ranks = range(inputs.case.num_ranks)
    return float(
        sum(count(source, rank) for source in ranks for rank in ranks if source != rank) / len(ranks)
    )

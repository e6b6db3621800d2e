# SPDX-License-Identifier: Apache-2.0
"""What is kept where a rank has no room for all that it would receive: an even share of everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def thin(things: Array, room: int) -> Array:
    """Those of some things that are kept: all, or as many as there is room for, evenly spread."""
    edges = scale(np.arange(len(things) + 1), room)
    return np.asarray(things[edges[1:] > edges[:-1]])


def share(sizes: Array, room: int) -> Array:
    """``[n + 1]``: where the parts of n takers begin and end that want so much each, in proportion if
    together they want more than the room."""
    return scale(np.concatenate([[0], np.cumsum(sizes)]), room)


def scale(edges: Array, room: int) -> Array:
    """Ascending numbers from 0 on, unless the last is within the room scaled down to end there."""
    return edges if edges[-1] <= room else edges * room // edges[-1]

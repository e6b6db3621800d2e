# SPDX-License-Identifier: Apache-2.0
"""Gpu: where calls of the simulator's C API go to."""

from __future__ import annotations

from typing import Any

from nccl_ep.sim._ffi import check, library


class Gpu:
    """One simulated GPU, as its rank and all that is made there know it. It keeps the cluster; they do not
    keep each other: the memory of a cluster is gone as soon as nobody holds any of it.

    Attributes:
        owner: of the C cluster.
        c: the C cluster (cdata pointer).
        rank: its number.
    """

    def __init__(self, owner: Any, rank: int) -> None:
        self.owner, self.c, self.rank = owner, owner.c, rank

    def call(self, function: str, *args: Any) -> None:
        """Calls a function of a cluster and a rank, and raises what it says."""
        check(self.result(function, *args))

    def result(self, function: str, *args: Any) -> int:
        """The same for what may say more than that it failed."""
        return int(getattr(library(), function)(self.c, self.rank, *args))

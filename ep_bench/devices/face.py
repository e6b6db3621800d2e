# SPDX-License-Identifier: Apache-2.0
"""One rank's device, and the other ranks' hosts, as the measuring code sees them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Peers(Protocol):
    """The hosts of all ranks. Every method is collective."""

    rank: int
    num_ranks: int

    def all_gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank. Values are what JSON can hold."""

    def forget(self, rank: int) -> None:
        """Goes on without a rank's process, if it is gone: its value is None."""


class Graph(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Puts the work on the device's stream."""

    def close(self) -> None: ...


class Memory(Protocol):
    """Device memory of one case, given back together. Arrays know address, shape and dtype."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Any: ...

    def window(self, shape: Sequence[int], dtype: Any) -> tuple[Any, Any]:
        """Memory that other ranks can write to, and its window. Collective."""

    def close(self) -> None:
        """Gives everything back; nothing may be pending. Collective if there was a window."""


class Device(Protocol):
    """One rank's GPU with one stream, on which everything runs.

    Attributes:
        kind: ``cuda`` or ``sim``.
        stream: for the library's calls.
    """

    kind: str
    stream: Any

    def communicator(self) -> AbstractContextManager[Any]:
        """A communicator of all ranks, for :class:`nccl_ep.Group`. Collective."""

    def memory(self, communicator: Any) -> Memory:
        """Room for arrays; their windows belong to the communicator."""

    def fill(self, array: Any, byte: int, first: int, count: int) -> None:
        """Sets every byte of ``count`` elements, in stream order."""

    def write(self, array: Any, values: Array, first: int = 0) -> None:
        """Overwrites elements from ``first`` on. Nothing that uses them may be pending."""

    def read(self, array: Any, first: int, shape: Sequence[int]) -> Array:
        """A copy of elements from ``first`` on. Waits for the stream."""

    def capture(self) -> AbstractContextManager[Graph]:
        """Captures what the ``with`` block puts on the stream."""

    def synchronize(self) -> None:
        """Waits for the stream."""

    def now_ns(self) -> int:
        """A clock in nanoseconds, by which kernels wait too."""

    def die(self) -> None:
        """This rank answers nobody any more. Where ranks are processes, this one ends."""


def poison(device: Device, array: Any, first: int = 0, count: int | None = None) -> None:
    """Overwrites elements with a value that no test data has."""
    device.fill(array, POISON_BYTE, first, int(np.prod(array.shape)) - first if count is None else count)


POISON_BYTE = 0x7F

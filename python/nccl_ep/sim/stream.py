# SPDX-License-Identifier: Apache-2.0
"""Streams, events and graphs of simulated GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nccl_ep.sim._ffi import NULL, check, ffi, kInProgress, library

if TYPE_CHECKING:
    from nccl_ep.sim.rank import Rank


class Stream:
    """A queue of work on a simulated GPU. Made by :meth:`Rank.stream`."""

    def __init__(self, rank: Rank, c: Any) -> None:
        self._rank = rank
        self._c = c

    @property
    def c(self) -> Any:
        """The ``cudaStream_t`` (cdata pointer)."""
        if self._c is None:
            raise RuntimeError("the stream is closed")
        return self._c

    @property
    def handle(self) -> int:
        """The ``cudaStream_t`` as an address; 0 is the default stream."""
        return int(ffi.cast("uintptr_t", self.c))

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        check(library().ncclEpSimStreamSynchronize(self._rank._c, self._rank.rank, self.c))

    def query(self) -> bool:
        """Whether all work on the stream is done. May be polled."""
        result = library().ncclEpSimStreamQuery(self._rank._c, self._rank.rank, self.c)
        if result == kInProgress:
            return False
        check(result)
        return True

    def record(self, event: Event | None = None) -> Event:
        """Records an event, by default a new one, behind the work on the stream."""
        event = event or self._rank.event()
        check(library().ncclEpSimEventRecord(self._rank._c, self._rank.rank, event.c, self.c))
        return event

    def wait(self, event: Event) -> None:
        """Lets work put on the stream from now on wait for the event's last record."""
        check(library().ncclEpSimStreamWaitEvent(self._rank._c, self._rank.rank, self.c, event.c))

    def copy(self, target: Any, source: Any) -> None:
        """Copies an array, in stream order. Neither may be touched until the copy is done."""
        if target.nbytes != source.nbytes:
            raise ValueError(f"target has {target.nbytes} bytes, source {source.nbytes}: expected the same")
        to, of = ffi.cast("void*", target.ctypes.data), ffi.cast("void*", source.ctypes.data)
        check(library().ncclEpSimMemcpyAsync(self._rank._c, self._rank.rank, to, of, source.nbytes, self.c))

    def fill(self, target: Any, value: int) -> None:
        """Sets every byte of an array, in stream order."""
        to = ffi.cast("void*", target.ctypes.data)
        check(
            library().ncclEpSimMemsetAsync(self._rank._c, self._rank.rank, to, value, target.nbytes, self.c)
        )

    def close(self) -> None:
        """Gives the stream back; pending work is still done. Closing twice is harmless."""
        c = self._c
        if c is not None and c != NULL:  # the default stream stays
            self._c = None
            check(library().ncclEpSimStreamDestroy(self._rank._c, self._rank.rank, c))


class Event:
    """A mark in a stream. Made by :meth:`Stream.record` or :meth:`Rank.event`."""

    def __init__(self, rank: Rank, c: Any) -> None:
        self._rank = rank
        self.c = c

    def synchronize(self) -> None:
        """Waits until what the last record covered is done."""
        check(library().ncclEpSimEventSynchronize(self._rank._c, self._rank.rank, self.c))

    def query(self) -> bool:
        """Whether what the last record covered is done. May be polled."""
        result = library().ncclEpSimEventQuery(self._rank._c, self._rank.rank, self.c)
        if result == kInProgress:
            return False
        check(result)
        return True

    def close(self) -> None:
        """Gives the event back. Closing twice is harmless."""
        c, self.c = self.c, NULL
        if c != NULL:
            check(library().ncclEpSimEventDestroy(self._rank._c, self._rank.rank, c))


class Graph:
    """Recorded work that can be launched any number of times. Made by :meth:`Rank.capture`.

    Attributes:
        stream: the stream it was captured from.
    """

    def __init__(self, rank: Rank, stream: Stream) -> None:
        self._rank = rank
        self.stream = stream
        self.c = NULL

    def launch(self, stream: Stream | None = None) -> None:
        """Puts the recorded work on a stream; default: the one it was captured from."""
        target = (stream or self.stream).c
        check(library().ncclEpSimGraphLaunch(self._rank._c, self._rank.rank, self.c, target))

    def close(self) -> None:
        """Gives the graph back. Closing twice is harmless."""
        c, self.c = self.c, NULL
        if c != NULL:
            check(library().ncclEpSimGraphDestroy(self._rank._c, self._rank.rank, c))

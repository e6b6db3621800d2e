# SPDX-License-Identifier: Apache-2.0
"""Streams, events and graphs of simulated GPUs."""

from __future__ import annotations

from typing import Any

from nccl_ep.sim._ffi import NULL, check, ffi, kInProgress
from nccl_ep.sim.gpu import Gpu


class Stream:
    """A queue of work on a simulated GPU. Made by :meth:`Rank.stream`."""

    def __init__(self, gpu: Gpu, c: Any) -> None:
        self._gpu = gpu
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
        self._gpu.call("ncclEpSimStreamSynchronize", self.c)

    def query(self) -> bool:
        """Whether all work on the stream is done. May be polled."""
        result = self._gpu.result("ncclEpSimStreamQuery", self.c)
        if result == kInProgress:
            return False
        check(result)
        return True

    def record(self, event: Event | None = None) -> Event:
        """Records an event, by default a new one, behind the work on the stream."""
        event = event or Event(self._gpu)
        self._gpu.call("ncclEpSimEventRecord", event.c, self.c)
        return event

    def wait(self, event: Event) -> None:
        """Lets work put on the stream from now on wait for the event's last record."""
        self._gpu.call("ncclEpSimStreamWaitEvent", self.c, event.c)

    def copy(self, target: Any, source: Any) -> None:
        """Copies an array, in stream order. Neither may be touched until the copy is done."""
        if target.nbytes != source.nbytes:
            raise ValueError(f"target has {target.nbytes} bytes, source {source.nbytes}: expected the same")
        to, of = ffi.cast("void*", target.ctypes.data), ffi.cast("void*", source.ctypes.data)
        self._gpu.call("ncclEpSimMemcpyAsync", to, of, source.nbytes, self.c)

    def fill(self, target: Any, value: int) -> None:
        """Sets every byte of an array, in stream order."""
        to = ffi.cast("void*", target.ctypes.data)
        self._gpu.call("ncclEpSimMemsetAsync", to, value, target.nbytes, self.c)

    def close(self) -> None:
        """Gives the stream back; pending work is still done. Closing twice is harmless."""
        c = self._c
        if c is not None and c != NULL:  # the default stream stays
            self._c = None
            self._gpu.call("ncclEpSimStreamDestroy", c)


class Event:
    """A mark in a stream. Made by :meth:`Stream.record` or :meth:`Rank.event`."""

    def __init__(self, gpu: Gpu) -> None:
        event = ffi.new("ncclEpSimEvent_t*")
        gpu.call("ncclEpSimEventCreate", event)
        self._gpu = gpu
        self.c = event[0]

    def synchronize(self) -> None:
        """Waits until what the last record covered is done."""
        self._gpu.call("ncclEpSimEventSynchronize", self.c)

    def query(self) -> bool:
        """Whether what the last record covered is done. May be polled."""
        result = self._gpu.result("ncclEpSimEventQuery", self.c)
        if result == kInProgress:
            return False
        check(result)
        return True

    def close(self) -> None:
        """Gives the event back. Closing twice is harmless."""
        c, self.c = self.c, NULL
        if c != NULL:
            self._gpu.call("ncclEpSimEventDestroy", c)


class Graph:
    """Recorded work that can be launched any number of times. Made by :meth:`Rank.capture`.

    Attributes:
        stream: the stream it was captured from.
    """

    def __init__(self, gpu: Gpu, stream: Stream) -> None:
        self._gpu = gpu
        self.stream = stream
        self.c = NULL

    def launch(self, stream: Stream | None = None) -> None:
        """Puts the recorded work on a stream; default: the one it was captured from."""
        target = (stream or self.stream).c
        self._gpu.call("ncclEpSimGraphLaunch", self.c, target)

    def close(self) -> None:
        """Gives the graph back. Closing twice is harmless."""
        c, self.c = self.c, NULL
        if c != NULL:
            self._gpu.call("ncclEpSimGraphDestroy", c)

# SPDX-License-Identifier: Apache-2.0
"""Ranks that are processes and exchange small values: over sockets, or over MPI."""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from ep_bench.exits import PeerLost, UsageError
from ep_bench.launch.environment import Place

_PATIENCE_S = 60.0


def meet(place: Place) -> Any:
    """Brings all ranks together. Collective."""
    if place.meeting is None:
        return MpiPeers()
    return SocketPeers(place)


class SocketPeers:
    """A star of sockets with rank 0 in the middle. What travels is JSON, never code."""

    def __init__(self, place: Place) -> None:
        self.rank, self.num_ranks = place.rank, place.num_ranks
        self._gone: int | None = None
        assert place.meeting is not None
        address: Any = str(place.meeting) if isinstance(place.meeting, Path) else place.meeting
        if self.rank == 0:
            self._connections = self._accept(address)
        else:
            self._connections = [self._connect(address)]

    def all_gather(self, value: Any) -> list[Any]:
        if self.rank == 0:
            there = [i for i in range(len(self._connections)) if i + 1 != self._gone]
            values: list[Any] = [value, *(None for _ in self._connections)]
            for i in there:
                values[i + 1] = self._receive(i)
            message = json.dumps(values).encode()
            for i in there:
                self._send(i, message)
            return values
        self._send(0, json.dumps(value).encode())
        return list(self._receive(0))

    def forget(self, rank: int) -> None:
        self._gone = rank

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _accept(self, address: Any) -> list[Any]:
        by_rank: dict[int, Any] = {}
        family = "AF_UNIX" if isinstance(address, str) else "AF_INET"
        address = address if isinstance(address, str) else ("", address[1])
        with Listener(address, family, backlog=self.num_ranks) as listener:
            while len(by_rank) < self.num_ranks - 1:
                connection: Any = listener.accept()
                by_rank[int(json.loads(connection.recv_bytes()))] = connection
        return [by_rank[rank] for rank in range(1, self.num_ranks)]

    def _connect(self, address: Any) -> Any:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                connection: Any = Client(address)
                connection.send_bytes(json.dumps(self.rank).encode())
                return connection
            except OSError as error:
                if time.monotonic() > give_up:
                    raise PeerLost(f"rank 0 is not at {address}: {error}") from None
                time.sleep(0.05)

    def _receive(self, index: int) -> Any:
        try:
            return json.loads(self._connections[index].recv_bytes())
        except (EOFError, OSError):
            raise self._lost(index) from None

    def _send(self, index: int, message: bytes) -> None:
        try:
            self._connections[index].send_bytes(message)
        except OSError:
            raise self._lost(index) from None

    def _lost(self, index: int) -> PeerLost:
        return PeerLost(f"rank {index + 1 if self.rank == 0 else 0} went away")


class MpiPeers:
    """Ranks that MPI brought together, through mpi4py."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI  # type: ignore[import-not-found, unused-ignore]
        except ModuleNotFoundError:
            raise UsageError(
                "started by mpirun without a place to meet: install mpi4py, or set MASTER_ADDR to the host "
                "of rank 0"
            ) from None
        self._world = MPI.COMM_WORLD
        self.rank, self.num_ranks = self._world.rank, self._world.size

    def all_gather(self, value: Any) -> list[Any]:
        return list(self._world.allgather(value))

    def forget(self, rank: int) -> None:
        raise UsageError("--kill: MPI ends all ranks with one; expected ep_bench to start them itself")

    def close(self) -> None:
        pass

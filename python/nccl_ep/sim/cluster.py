# SPDX-License-Identifier: Apache-2.0
"""Cluster: simulated GPUs in this process, and threads that act as their ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nccl_ep._checks import member, unsigned
from nccl_ep._closing import Closing
from nccl_ep.errors import Error, RemoteError
from nccl_ep.sim._ffi import check, constants, ffi, library, numbers_of
from nccl_ep.sim.rank import Rank

Result = TypeVar("Result")
_MAX_NOTES = 8  # of ranks that raised as well


class Stores(IntEnum):
    """When stores to other ranks' memory become visible there."""

    AUTO = 0
    DIRECT = 1
    RANDOM = 2
    LATE = 3


class Schedule(IntEnum):
    """Which of the runnable device threads runs next."""

    AUTO = 0
    WARPS = 1
    BURSTS = 2
    UNIFORM = 3
    STARVE = 4


class Failure(IntEnum):
    """How a simulation ended early."""

    NONE = 0
    RACE = 1
    DEADLOCK = 2
    HOST_DEADLOCK = 3
    FAULT = 4
    STEP_LIMIT = 5
    LIMIT = 6


class Cluster(Closing):
    """Simulated GPUs that run the library's own kernels on the CPU, and check them while they run.

    The same seed gives the same run, bit for bit. Time is not simulated. Leaving the ``with`` block closes
    the cluster; arrays of simulated memory stay readable as long as somebody holds them.

    Args:
        nodes: hosts.
        gpus_per_node: GPUs of a host, which reach each other's memory.
        seed: of everything random, from 1 on; None: the environment variable ``NCCL_EP_SIM_SEED``, else 1.
        sms: SMs of a GPU. Small numbers keep the simulation fast.
        lsa_team_size: GPUs that reach each other's memory, if fewer than a host has.
        threads_per_block: most threads of a block.
        shared_bytes: most dynamic shared memory of a block.
        memory_bytes: memory of a GPU; only what is touched is really used.
        step_limit: scheduling steps until the run is declared hung.
        checker: whether to look for races, as by default. With large rows that takes up to half of the
            time and several times the memory.
        stores: when stores to other ranks become visible.
        schedule: how device threads are interleaved.
        network: whether there is one between LSA teams.
        rails_only: whether it connects ranks with the same place in their teams only.
        network_contexts: of each network; default 4.

    A number whose default is 0 is chosen by the simulator then.

    Raises:
        ValueError: a number is out of bounds; a seed of 0, too, which C takes for none.
        TypeError: a number or a member of an enumeration is something else.
        InvalidArgument: what the simulator does not have, such as an ``lsa_team_size`` that divides no host.

    Example:
        >>> def main(rank):
        ...     return rank.all_gather(np.int32(rank.rank * 10)).tolist()
        >>> with Cluster(gpus_per_node=3, seed=7) as cluster:
        ...     cluster.run(main)
        [[0, 10, 20], [0, 10, 20], [0, 10, 20]]
    """

    def __init__(
        self,
        nodes: int = 1,
        gpus_per_node: int = 4,
        *,
        seed: int | None = None,
        sms: int = 4,
        lsa_team_size: int = 0,
        threads_per_block: int = 0,
        shared_bytes: int = 0,
        memory_bytes: int = 0,
        step_limit: int = 0,
        checker: bool | None = None,
        stores: Stores = Stores.AUTO,
        schedule: Schedule = Schedule.AUTO,
        network: bool = True,
        rails_only: bool = False,
        network_contexts: int = 0,
    ) -> None:
        wanted = ffi.new("ncclEpSimConfig_t*")
        wanted.size, wanted.magic = ffi.sizeof("ncclEpSimConfig_t"), constants["NCCL_EP_SIM_MAGIC"]
        wanted.num_nodes = unsigned("nodes", nodes, least=1)
        wanted.gpus_per_node = unsigned("gpus_per_node", gpus_per_node, least=1)
        wanted.lsa_team_size = unsigned("lsa_team_size", lsa_team_size)
        wanted.seed = 0 if seed is None else unsigned("seed", seed, bits=64, least=1)
        wanted.sms_per_gpu = unsigned("sms", sms)
        wanted.max_threads_per_block = unsigned("threads_per_block", threads_per_block)
        wanted.max_shared_bytes = unsigned("shared_bytes", shared_bytes)
        wanted.memory_bytes = unsigned("memory_bytes", memory_bytes, bits=64)
        wanted.step_limit = unsigned("step_limit", step_limit, bits=64)
        wanted.checker = 0 if checker is None else 2 if checker else 1
        wanted.stores = member("stores", stores, Stores)
        wanted.schedule = member("schedule", schedule, Schedule)
        wanted.network = 1 if not network else 3 if rails_only else 2
        wanted.num_gin_contexts = unsigned("network_contexts", network_contexts)
        self._owner: _Owner | None = _Owner(wanted)
        in_force = ffi.new("ncclEpSimConfig_t*")
        check(library().ncclEpSimGetConfig(self.c, in_force))
        self.config = {
            name: value for name, value in numbers_of(in_force[0]).items() if name not in ("size", "magic")
        }
        self.seed = self.config["seed"]
        self.num_ranks = nodes * gpus_per_node

    def run(self, main: Callable[..., Result], *args: Any) -> list[Result]:
        """Runs ``main(rank, *args)`` for every rank, each in a thread of its own, and returns their results.

        If a rank raises, the others go on without it until they have finished or wait for it in vain; then
        an exception is raised again: the first one that is not about another rank or about the end of the
        simulation, if there is one. Notes on it have the rank, the simulator's report, and what the other
        ranks raised.
        """
        results: list[Any] = [None] * self.num_ranks
        failures: list[tuple[int, BaseException]] = []

        def act(index: int) -> None:
            try:
                with self.enter(index) as rank:
                    try:
                        results[index] = main(rank, *args)
                    except BaseException as failure:
                        failures.append((index, failure))  # before leaving, which may make others fail
            except BaseException as failure:
                failures.append((index, failure))

        threads = [
            threading.Thread(target=act, args=(r,), name=f"rank {r}", daemon=True)
            for r in range(self.num_ranks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise self._explain(failures)
        return results

    def enter(self, rank: int) -> Rank:
        """The rank, to be used in a ``with`` block by the thread that acts for it. Most programs call
        :meth:`run`.

        GPUs move only while every rank has been entered, or left again.
        """
        return Rank(self._open_owner(), rank, self.num_ranks)

    @property
    def c(self) -> Any:
        """The C cluster (cdata pointer)."""
        return self._open_owner().c

    @property
    def failure(self) -> Failure:
        """How the simulation failed, if it did."""
        return self._failure()[0]

    @property
    def report(self) -> str:
        """What went wrong, with seed, place and source line; empty if nothing did."""
        return self._failure()[1]

    @property
    def schedule_hash(self) -> int:
        """A digest of all scheduling decisions: equal digests, same run."""
        digest = ffi.new("uint64_t*")
        check(library().ncclEpSimGetScheduleHash(self.c, digest))
        return int(digest[0])

    @property
    def clock_ns(self) -> int:
        """Simulated nanoseconds, by which time-outs end. They tell nothing about speed."""
        clock = ffi.new("uint64_t*")
        check(library().ncclEpSimGetClock(self.c, clock))
        return int(clock[0])

    def traffic(self) -> npt.NDArray[np.void]:
        """What went from GPU to GPU since the last :meth:`reset_traffic`.

        Returns:
            A structured array ``[source, destination]`` with the fields of ``ncclEpSimLinkCounters_t``, for
            instance ``traffic()["bytes"][0, 1]``: bytes that rank 0 wrote to rank 1.
        """
        ranks = self.num_ranks
        links = ffi.new("ncclEpSimLinkCounters_t[]", ranks * ranks)
        for source in range(ranks):
            for destination in range(ranks):
                check(
                    library().ncclEpSimGetLinkCounters(
                        self.c, source, destination, links + source * ranks + destination
                    )
                )
        fields = [(name, np.uint64) for name, _ in ffi.typeof("ncclEpSimLinkCounters_t").fields]
        return np.frombuffer(bytes(ffi.buffer(links)), fields).reshape(ranks, ranks)

    def reset_traffic(self) -> None:
        """Starts counting traffic anew."""
        check(library().ncclEpSimResetCounters(self.c))

    def usage(self, rank: int) -> dict[str, int]:
        """What is allocated on a rank now: the fields of ``ncclEpSimUsage_t``."""
        usage = ffi.new("ncclEpSimUsage_t*")
        check(library().ncclEpSimGetUsage(self.c, rank, usage))
        return numbers_of(usage[0])

    def silence(self, rank: int, *, after: int = 0) -> None:
        """Fault: the rank's GPU stops, as if it had died.

        While it is silent its own host's waits for it, such as :meth:`Rank.synchronize`, raise
        :class:`SystemFailure`, even if :meth:`wake` has been called to let it go on later. What is between
        hosts, such as :meth:`Rank.barrier`, works.

        Args:
            rank: whose.
            after: when so many scheduling steps have passed; 0: at once.
        """
        steps = unsigned("after", after, bits=64)
        if steps:
            check(library().ncclEpSimSilenceRankAfter(self.c, rank, steps))
        else:
            check(library().ncclEpSimSilenceRank(self.c, rank))

    def stop_warps(self, rank: int, *, first_block: int = 0, first_warp: int = 0, after: int = 0) -> None:
        """Fault: some warps of the rank's kernels stand still, the others run on.

        Args:
            rank: whose.
            first_block: the first block with such warps; all later ones have them too.
            first_warp: the first such warp of each of these blocks.
            after: when so many scheduling steps have passed.
        """
        first = unsigned("first_block", first_block), unsigned("first_warp", first_warp)
        check(library().ncclEpSimStopWarpsAfter(self.c, rank, *first, unsigned("after", after, bits=64)))

    def wake(self, rank: int, *, after: int = 0) -> None:
        """Ends :meth:`silence` and :meth:`stop_warps`: the GPU goes on where it stopped.

        Args:
            rank: whose.
            after: when so many scheduling steps have passed, or nothing can go on without it; 0: at once.
        """
        steps = unsigned("after", after, bits=64)
        if steps:
            check(library().ncclEpSimWakeRankAfter(self.c, rank, steps))
        else:
            check(library().ncclEpSimWakeRank(self.c, rank))

    def delay(self, rank: int, steps: int) -> None:
        """Fault: work queued from now on starts up to ``steps`` scheduling steps later; 0 is as usual."""
        check(library().ncclEpSimDelayRank(self.c, rank, unsigned("steps", steps, bits=64)))

    def lose_node(self, node: int) -> None:
        """Fault: all GPUs of a host stop, and what is in flight to and from it is lost."""
        check(library().ncclEpSimLoseNode(self.c, node))

    def close(self) -> None:
        """Ends the cluster; all ranks must have left. Closing twice is harmless."""
        self._owner = None

    def _explain(self, failures: list[tuple[int, BaseException]]) -> BaseException:
        """The most telling of the ranks' exceptions, given in the order in which they came, with notes."""
        report = self.report

        def is_consequence(failure: BaseException) -> bool:
            about_the_end = bool(report) and report in str(failure)
            return isinstance(failure, RemoteError) or (isinstance(failure, Error) and about_the_end)

        failures = sorted(failures, key=lambda entry: (is_consequence(entry[1]), isinstance(entry[1], Error)))
        index, failure = failures[0]
        _add_note(failure, f"on simulated rank {index} of {self.num_ranks}, seed {self.seed}")
        if report not in str(failure):
            _add_note(failure, report)
        others = [(rank, other) for rank, other in failures[1:] if not (report and report in str(other))]
        for rank, other in others[:_MAX_NOTES]:
            _add_note(failure, f"rank {rank} raised {type(other).__name__}: {_first_line(other)}")
        if len(others) > _MAX_NOTES:
            _add_note(failure, f"and so did {len(others) - _MAX_NOTES} more ranks")
        return failure

    def _failure(self) -> tuple[Failure, str]:
        kind, report = ffi.new("ncclEpSimFailure_t*"), ffi.new("const char**")
        check(library().ncclEpSimGetFailure(self.c, kind, report))
        return Failure(int(kind[0])), ffi.string(report[0]).decode(errors="replace")

    def _open_owner(self) -> _Owner:
        if self._owner is None:
            raise RuntimeError("the simulated cluster is closed")
        return self._owner

    def __repr__(self) -> str:
        state = " closed" if self._owner is None else ""
        return f"<nccl_ep.sim.Cluster of {self.num_ranks} ranks, seed {self.seed}{state}>"


class _Owner:
    """Owns the C cluster. Cluster, ranks and arrays of its memory share it; the last one out destroys it."""

    def __init__(self, config: Any) -> None:
        out = ffi.new("ncclEpSimCluster_t*")
        check(library().ncclEpSimClusterCreate(out, config))
        self.c = out[0]
        self._destroy = library().ncclEpSimClusterDestroy

    def __del__(self) -> None:
        if hasattr(self, "_destroy"):
            self._destroy(self.c)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _add_note(error: BaseException, note: str) -> None:
    vars(error).setdefault("__notes__", []).append(note)  # add_note, for Python 3.10 too

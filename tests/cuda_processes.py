# SPDX-License-Identifier: Apache-2.0
"""More ranks than GPUs behind the tests' common face: a process for each rank, among which the GPUs divide
their time.

NCCL allows it when ``NCCL_MULTI_RANK_GPU_ENABLE=1`` is set. Threads of one process would not do: their
kernels wait for one another, and where one of them frees memory, the driver waits for all kernels of the
process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
from cuda_cluster import CudaRank, communicator_of, make_unique_id, num_gpus, use_gpu

PATIENCE_S = 60
"""With one test body; then its processes are killed."""


@dataclass(frozen=True)
class Answer:
    """What has become of a test body on a rank."""

    result: Any
    failure: BaseException | None = None
    traceback: str = ""


class ProcessCluster:
    """Ranks in processes of their own, dealt out to this host's GPUs in turn."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(num_ranks)  # of the system's semaphores, which end with it
        unique_id = make_unique_id()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, num_ranks, unique_id, theirs, self._barrier), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def is_usable(self) -> bool:
        """Whether all processes wait for a body to run."""
        return all(process.is_alive() for process in self._processes)

    def run(self, main: Callable[..., Any], *args: Any) -> list[Any]:
        body = cloudpickle.dumps((main, args))
        for pipe in self._pipes:
            pipe.send_bytes(body)
        try:
            return self._collect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _collect(self) -> list[Any]:
        answers: dict[int, Answer] = {}
        while len(answers) < self.num_ranks:
            left = [rank for rank in range(self.num_ranks) if rank not in answers]
            ready = wait([self._pipes[rank] for rank in left], timeout=PATIENCE_S)
            if not ready:
                raise TimeoutError(f"ranks {left} have not ended within {PATIENCE_S} s")
            for rank in left:
                if self._pipes[rank] in ready:
                    answers[rank] = self._receive(rank)
        # Who broke the barrier has failed, those who met there have not.
        failed = [(it.failure, it.traceback) for it in answers.values() if it.failure is not None]
        for failure, place in sorted(failed, key=lambda it: isinstance(it[0], threading.BrokenBarrierError)):
            raise failure from RuntimeError(place)
        return [answers[rank].result for rank in range(self.num_ranks)]

    def _receive(self, rank: int) -> Answer:
        try:
            answer: Answer = cloudpickle.loads(self._pipes[rank].recv_bytes())
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"the process of rank {rank} has died") from None
        return answer


_clusters: dict[int, ProcessCluster] = {}


def shared_cluster(num_ranks: int) -> ProcessCluster:
    """A cluster that later tests use again, since making one takes seconds."""
    cluster = _clusters.get(num_ranks)
    if cluster is None or not cluster.is_usable:
        cluster = _clusters[num_ranks] = ProcessCluster(num_ranks)
    return cluster


def _serve(rank: int, num_ranks: int, unique_id: bytes, pipe: Connection, barrier: Any) -> None:
    gpu = rank % num_gpus()
    use_gpu(gpu)
    comm = communicator_of(unique_id, rank, num_ranks)
    while True:
        try:
            main, args = cloudpickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)  # the tests have ended
        face = CudaRank(rank, num_ranks, comm, barrier, gpu)
        try:
            answer = Answer(main(face, *args))
        except BaseException as failure:
            barrier.abort()
            answer = Answer(None, failure, f"on rank {rank}:\n{traceback.format_exc()}")
        face.close()
        pipe.send_bytes(cloudpickle.dumps(answer))

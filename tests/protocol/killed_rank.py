# SPDX-License-Identifier: Apache-2.0
"""One process of ``test_killed``: a GPU whose process may be killed while it replays a graph.

    python killed_rank.py RANK RANKS FOLDER VICTIM ALGORITHM

Ranks meet in FOLDER. ALGORITHM is ll or ht. A survivor exits with 0 when all has been as it must.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ht
import ll
import nccl_ep as ep
from cuda_cluster import CudaRank, communicator_of, make_unique_id, num_gpus, use_gpu
from ht_survivors import mask_left, what_is_left
from ll import EM, Shape, assert_same_bits, make_problem
from masks import mask_of, mask_without, without
from oracle import Array, Problem

REPLAYS, REPLAYS_BEFORE = 2000, 300
# Between nodes of the loopback plugin threads of the host move what the driver may hold up as a process ends.
TIMEOUT_NS = 2_000_000_000 if "NCCL_RMA_PLUGIN" in os.environ else 200_000_000


class LowLatency:
    """A step is a dispatch and a combine."""

    counters = ("counters",)

    def config(self, problem: Problem) -> ep.GroupConfig:
        return ll.group_config(problem, enable_mask=True, timeout_ns=TIMEOUT_NS)

    def exchange(self, face: CudaRank, problem: Problem) -> Any:
        return ll.Exchange(face, problem, EM)

    def step(self, mine: Any, handle: ep.Handle, stream: Any) -> None:
        mine.run(handle, stream)

    def left(self, problem: Problem, victim: int) -> Problem:
        return without(problem, victim)

    def mask(self, rank: int, num_ranks: int, victim: int) -> list[int]:
        return mask_without(num_ranks, victim)

    def expert_rows(self, problem: Problem, rank: int) -> Array:
        return ll.expert_rows(problem, rank, EM)

    def expected(self, problem: Problem, rank: int) -> dict[str, Array]:
        return ll.expected(problem, rank, EM)


class HighThroughput:
    """A step is an update as well."""

    counters = ("expert_counters", "total")

    def __init__(self, problem: Problem) -> None:
        self.team_size = int(os.environ.get("NCCL_LSA_TEAM_SIZE", problem.num_ranks))
        mode = ht.Mode(ht.FLAT, windows=True, team_size=self.team_size)
        self.mode = replace(mode, budget=ht.budget_for(problem, mode))

    def config(self, problem: Problem) -> ep.GroupConfig:
        return ht.group_config(problem, self.mode, enable_mask=True, timeout_ns=TIMEOUT_NS)

    def exchange(self, face: CudaRank, problem: Problem) -> Any:
        return ht.Exchange(face, problem, self.mode)

    def step(self, mine: Any, handle: ep.Handle, stream: Any) -> None:
        mine.update(handle, stream)
        mine.run(handle, stream)

    def left(self, problem: Problem, victim: int) -> Problem:
        return what_is_left(problem, self.mode, (victim,))

    def mask(self, rank: int, num_ranks: int, victim: int) -> list[int]:
        return mask_left(rank, num_ranks, self.team_size, (victim,))

    def expert_rows(self, problem: Problem, rank: int) -> Array:
        return ht.expert_rows(problem, rank, self.mode)

    def expected(self, problem: Problem, rank: int) -> dict[str, Array]:
        return ht.expected(problem, rank, self.mode)


def main(rank: int, num_ranks: int, folder: Path, victim: int, algorithm: str) -> None:
    gpu = rank % num_gpus()
    use_gpu(gpu)
    place = folder / "unique_id"
    if rank == 0:
        place.with_suffix(".new").write_bytes(make_unique_id())
        place.with_suffix(".new").rename(place)
    while not place.exists():
        time.sleep(0.01)
    comm = communicator_of(place.read_bytes(), rank, num_ranks)
    face = CudaRank(rank, num_ranks, comm, threading.Barrier(1), gpu)
    shape = Shape(num_ranks=num_ranks, num_topk=3, hidden=1024, max_tokens=32, tokens=(32,) * num_ranks)
    problem = make_problem(shape, seed=1)
    body = LowLatency() if algorithm == "ll" else HighThroughput(problem)
    group = ep.Group(face.comm, body.config(problem))
    mine = body.exchange(face, problem)
    left = body.left(problem, victim)
    handle = mine.make_handle(group)
    face.synchronize()
    with face.capture() as graph:
        body.step(mine, handle, graph.stream)
    for _ in range(REPLAYS_BEFORE):
        graph.launch()
    if rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    graph.stream.synchronize()
    longest = 0.0
    for _ in range(REPLAYS - REPLAYS_BEFORE):
        start = time.perf_counter()
        graph.launch()
        graph.stream.synchronize()
        longest = max(longest, time.perf_counter() - start)
    lost, mask = group.async_error(), mask_of(face, group)
    assert mask == body.mask(rank, num_ranks, victim), f"{mask}, longest replay {longest:.3f} s: {lost}"
    if mask[victim]:
        assert lost is None  # it is a rank of another team that this one does not deal with
    else:
        assert isinstance(lost, ep.RemoteError)
        assert lost.ranks == (victim,)
    face.write(mine.expert_rows, body.expert_rows(left, rank))
    graph.launch()
    graph.stream.synchronize()
    found, wanted = mine.results(), body.expected(left, rank)
    for name in body.counters:
        assert_same_bits(found[name], wanted[name], name)
    zero = problem.dtype.type(0)
    assert_same_bits(found["combined"] + zero, wanted["combined"] + zero, "combined")
    print(f"rank {rank}: the longest replay took {longest * 1e3:.1f} ms", flush=True)
    group.close()
    print(f"rank {rank}: closed", flush=True)
    os._exit(0)  # NCCL's own communicator still has the rank that is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])

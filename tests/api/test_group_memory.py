# SPDX-License-Identifier: Apache-2.0
"""A group that one rank has no memory for: its creation ends on all ranks, and leaves nothing behind."""

from __future__ import annotations

import re
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest

MEMORY = 64 << 20  # of a GPU
ALGORITHMS = pytest.mark.parametrize("algorithm", list(ep.Algorithm), ids=lambda algorithm: algorithm.name)
MASKS = pytest.mark.parametrize("enable_mask", [False, True], ids=["", "masks"])
CLUSTERS = pytest.mark.parametrize("nodes", [1, 2], ids=["one team", "two teams"])


def config(algorithm: ep.Algorithm, **changes: Any) -> ep.GroupConfig:
    good = {"num_experts": 4, "max_dispatch_tokens_per_rank": 1024, "max_token_bytes": 1024, "num_topk": 2}
    return ep.GroupConfig(algorithm=algorithm, **(good | changes))


class ScarceMemory:
    """The simulator's memory behind the C API's allocator functions, which lasts for so many pieces.

    What is given back is handed out again first, as PyTorch's allocator does.
    """

    def __init__(self, rank: Any, pieces: int) -> None:
        self.rank, self.pieces = rank, pieces
        self.live: dict[int, Any] = {}
        self.config = ep.AllocConfig(ep.AllocFn(self._allocate), ep.FreeFn(self._release))

    def _allocate(self, out: Any, size: int, context: int) -> int:
        if not self.pieces:
            return 2  # cudaErrorMemoryAllocation
        self.pieces -= 1
        array = self.rank.sim.empty(size, np.uint8)
        self.live[array.ctypes.data] = array
        out[0] = array.ctypes.data
        return 0

    def _release(self, ptr: int, context: int) -> int:
        self.rank.sim.free(self.live.pop(ptr))
        return 0


def check_that_a_group_works(rank: Any, algorithm: ep.Algorithm, **changes: Any) -> None:
    """Its ranks reach each other: what was begun in vain before stands in nobody's way."""
    topk_idx = rank.array(np.array([[0, 3]], np.int64))  # of two ranks with two experts each
    counters = rank.array(np.zeros(2, np.int32))
    info = ep.LayoutInfo(expert_counters=counters)
    counts_in_update = algorithm is ep.Algorithm.HIGH_THROUGHPUT
    with ep.Group(
        rank.comm, config(algorithm, max_dispatch_tokens_per_rank=8, timeout_ns=10**9, **changes)
    ) as group:
        layout = ep.Layout.EXPERT_MAJOR
        with group.create_handle(layout, topk_idx, layout_info=info if counts_in_update else None) as handle:
            if not counts_in_update:
                tokens = rank.array(np.zeros((1, 8), np.float32))
                received = rank.array(np.zeros((2, 16, 8), np.float32))
                handle.dispatch(ep.DispatchInputs(tokens), ep.DispatchOutputs(received), layout_info=info)
            rank.synchronize()
        assert group.async_error() is None
    assert rank.read(counters).tolist() == [[2, 0], [0, 2]][rank.rank]


@ALGORITHMS
@MASKS
@CLUSTERS
@pytest.mark.sim_only
def test_no_room_for_the_window(
    make_cluster: Any, algorithm: ep.Algorithm, enable_mask: bool, nodes: int
) -> None:
    def main(rank: Any) -> str:
        occupied = rank.sim.empty(MEMORY - (1 << 20), np.uint8) if rank.rank == 1 else None
        before = cluster.sim.usage(rank.rank)
        with pytest.raises(ep.Error) as failure:
            ep.Group(rank.comm, config(algorithm, enable_mask=enable_mask))
        assert cluster.sim.usage(rank.rank) == before
        if occupied is not None:
            rank.sim.free(occupied)
        check_that_a_group_works(rank, algorithm, enable_mask=enable_mask)
        return failure.value.message

    cluster = make_cluster(2, nodes=nodes, memory_bytes=MEMORY)
    other, lacking = cluster.run(main)
    assert "rank 1 could not create its part" in other
    assert re.search(
        r"config: \d{7,} bytes for the group's window, which follow from "
        r"max_dispatch_tokens_per_rank \(1024\), "
        r"(max_recv_tokens_per_rank \(0\), )?max_token_bytes \(1024\), num_experts \(4\), num_topk \(2\) "
        r"and 2 ranks: .*cannot allocate",
        lacking,
    )


@ALGORITHMS
@MASKS
@CLUSTERS
@pytest.mark.sim_only
def test_every_piece_that_may_be_lacking(
    make_cluster: Any, algorithm: ep.Algorithm, enable_mask: bool, nodes: int
) -> None:
    """Rank 1 has one piece more with each try, until there are enough."""

    def main(rank: Any) -> list[str]:
        messages = []
        for pieces in range(100):
            memory = ScarceMemory(rank, pieces if rank.rank == 1 else 100)
            try:
                group = ep.Group(
                    rank.comm,
                    config(
                        algorithm,
                        enable_mask=enable_mask,
                        max_dispatch_tokens_per_rank=8,
                        alloc=memory.config,
                    ),
                )
            except ep.Error as error:
                messages.append(error.message)
                assert not memory.live
                continue
            group.destroy()
            assert not memory.live
            check_that_a_group_works(rank, algorithm, enable_mask=enable_mask)
            return messages
        raise AssertionError("a hundred pieces are not enough")

    others, lacking = make_cluster(2, nodes=nodes).run(main)
    assert len(others) == len(lacking) > 0
    assert all("rank 1 could not create its part" in message for message in others)
    assert all("config.alloc.alloc_fn returned 2" in message for message in lacking)


@ALGORITHMS
@CLUSTERS
@pytest.mark.sim_only
def test_what_one_rank_is_refused_for(make_cluster: Any, algorithm: ep.Algorithm, nodes: int) -> None:
    """It has begun less than the others."""

    def main(rank: Any) -> None:
        with pytest.raises(ep.Error):
            ep.Group(rank.comm, config(algorithm, num_experts=7 if rank.rank else 4))
        check_that_a_group_works(rank, algorithm)

    make_cluster(2, nodes=nodes).run(main)


@pytest.mark.sim_only
def test_an_allocator_that_gives_nothing(make_cluster: Any) -> None:
    def main(rank: Any) -> str:
        allocate, release = ep.AllocFn(lambda out, size, context: 0), ep.FreeFn(lambda ptr, context: 0)
        with pytest.raises(ep.Error) as failure:
            ep.Group(rank.comm, config(ep.Algorithm.LOW_LATENCY, alloc=ep.AllocConfig(allocate, release)))
        return failure.value.message

    says = r"alloc_fn returned 0 and NULL for \d+ bytes of group state, expected cudaSuccess \(0\) and memory"
    assert re.search(says, make_cluster(1).run(main)[0])


@pytest.mark.sim_only
def test_what_is_given_back_is_not_written_any_more(make_cluster: Any, seed: int) -> None:
    """The ranks disagree, which they learn when each has its memory."""

    def main(rank: Any) -> None:
        memory = ScarceMemory(rank, 100)
        with pytest.raises(ep.InvalidArgument):
            ep.Group(
                rank.comm,
                config(
                    ep.Algorithm.HIGH_THROUGHPUT,
                    max_dispatch_tokens_per_rank=8 + rank.rank,
                    alloc=memory.config,
                ),
            )
        reused = rank.sim.empty(1 << 20, np.uint8)
        reused[:] = 7
        rank.synchronize()
        assert (reused == 7).all()

    make_cluster(2, seed).run(main)

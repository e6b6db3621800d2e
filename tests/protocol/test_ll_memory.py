# SPDX-License-Identifier: Apache-2.0
"""Who owns which memory: handle memory, the caller's allocator, and nothing left behind."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import NODES, check_that_nothing_is_left_behind
from ll import EM, RM, Exchange, Shape, check, group_config, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])


@LAYOUTS
@NODES
def test_the_caller_owns_the_handle_memory(
    make_cluster: Any, nodes: int, layout: ep.Layout, seed: int
) -> None:
    problem = make_problem(Shape(num_ranks=2 * nodes, num_topk=3), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            num_bytes = group.handle_mem_size(layout, problem.num_topk)
            memory = rank.array(np.full(num_bytes, 0xA5, np.uint8))
            for _ in range(2):  # the same memory serves one handle after the other
                with mine.make_handle(group, handle_mem=memory) as handle:
                    mine.run(handle)
                    rank.synchronize()
            return mine.results()

    check(problem, layout, make_cluster(2 * nodes, seed, nodes=nodes).run(main))


def test_handle_memory_grows_with_topk_only_as_needed(make_cluster: Any) -> None:
    def main(rank: Any) -> list[int]:
        config = ep.GroupConfig(num_experts=128, max_dispatch_tokens_per_rank=8, max_token_bytes=64)
        with ep.Group(rank.comm, config) as group:
            return [group.handle_mem_size(EM, num_topk) for num_topk in (1, 8, 64)]

    for sizes in make_cluster(2).run(main):
        assert 0 < sizes[0] <= sizes[1] <= sizes[2]


class CountingAllocator:
    """The simulator's memory behind the C API's allocator functions. ``live`` maps addresses to their
    arrays.
    """

    def __init__(self, rank: Any) -> None:
        self.rank, self.calls = rank, 0
        self.live: dict[int, Any] = {}
        self._alloc, self._free = ep.AllocFn(self._allocate), ep.FreeFn(self._release)
        self.config = ep.AllocConfig(self._alloc, self._free, context=1234)

    def _allocate(self, out: Any, size: int, context: int) -> int:
        assert context == 1234
        array = self.rank.sim.empty(size, np.uint8)
        self.live[array.ctypes.data] = array
        self.calls += 1
        out[0] = array.ctypes.data
        return 0

    def _release(self, ptr: int, context: int) -> int:
        assert context == 1234
        self.rank.sim.free(self.live.pop(ptr))
        return 0


@pytest.mark.sim_only
def test_the_callers_allocator_gets_everything_back(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(), seed)

    def main(rank: Any) -> Any:
        allocator = CountingAllocator(rank)
        with ep.Group(rank.comm, group_config(problem, alloc=allocator.config)) as group:
            mine = Exchange(rank, problem, EM)
            before = allocator.calls
            with mine.make_handle(group) as handle:
                assert allocator.calls > before
                assert allocator.live
                mine.run(handle)
                results = mine.results()
        assert not allocator.live
        return results

    check(problem, EM, make_cluster(2, seed).run(main))


@pytest.mark.sim_only
def test_a_failing_allocator_is_an_error_that_leaks_nothing(make_cluster: Any) -> None:
    def main(rank: Any) -> tuple[str, dict[str, int], dict[str, int]]:
        refuse = ep.AllocFn(lambda out, size, context: 2)
        ignore = ep.FreeFn(lambda ptr, context: 0)
        before = cluster.sim.usage(rank.rank)
        config = ep.GroupConfig(
            num_experts=2,
            max_dispatch_tokens_per_rank=2,
            max_token_bytes=64,
            alloc=ep.AllocConfig(refuse, ignore),
        )
        with pytest.raises(ep.Error) as failure:
            ep.Group(rank.comm, config)
        rank.barrier()
        return str(failure.value), before, cluster.sim.usage(rank.rank)

    cluster = make_cluster(2)
    for message, before, after in cluster.run(main):
        assert "alloc" in message
        assert before == after


@LAYOUTS
@NODES
@pytest.mark.sim_only
def test_nothing_is_left_behind(make_cluster: Any, nodes: int, layout: ep.Layout) -> None:
    problem = make_problem(Shape(num_ranks=2 * nodes), seed=1)

    cluster = make_cluster(2 * nodes, nodes=nodes)
    exchange = partial(Exchange, problem=problem, layout=layout)
    check_that_nothing_is_left_behind(cluster, group_config(problem), exchange)


@NODES
def test_groups_side_by_side(make_cluster: Any, nodes: int, seed: int) -> None:
    shapes = [Shape(num_ranks=2 * nodes), Shape(num_ranks=2 * nodes, num_local_experts=3, hidden=32)]
    problems = [make_problem(shape, seed + i) for i, shape in enumerate(shapes)]

    def main(rank: Any) -> Any:
        with (
            ep.Group(rank.comm, group_config(problems[0])) as one,
            ep.Group(rank.comm, group_config(problems[1])) as two,
        ):
            all_mine = [Exchange(rank, problem, EM) for problem in problems]
            handles = [mine.make_handle(group) for mine, group in zip(all_mine, (one, two), strict=True)]
            for _ in range(2):
                for mine, handle in zip(all_mine, handles, strict=True):
                    mine.run(handle)
            return [mine.results() for mine in all_mine]

    results = make_cluster(2 * nodes, seed, nodes=nodes).run(main)
    for i, problem in enumerate(problems):
        check(problem, EM, [result[i] for result in results])


def test_addresses_are_tensors_too(make_cluster: Any) -> None:
    problem = make_problem(Shape(tokens=(3, 4)), seed=3)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, EM)
            ptr = ep.Tensor(mine.topk_idx).ptr
            table = ep.Tensor(ptr, dtype="int64", shape=problem.topk_idx[rank.rank].shape)
            with group.create_handle(EM, table) as handle:
                assert ctypes.c_void_p(handle.ptr).value
                mine.run(handle)
                return mine.results()

    check(problem, EM, make_cluster(2).run(main))

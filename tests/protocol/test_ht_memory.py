# SPDX-License-Identifier: Apache-2.0
"""How much memory a budget takes, who owns it, and that nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import check_that_nothing_is_left_behind
from ht import EM, FLAT, Exchange, Mode, Shape, check, group_config, make_problem

LAYOUTS = pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
GUARD = 0xA5


@LAYOUTS
def test_the_caller_owns_the_handle_memory(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    """Nothing behind what handle_mem_size says is touched."""
    problem = make_problem(Shape(num_topk=3), seed)
    mode = Mode(layout)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            num_bytes = group.handle_mem_size(layout, problem.num_topk)
            memory = rank.array(np.full(num_bytes + 4096, GUARD, np.uint8))
            for _ in range(2):  # the same memory serves one handle after the other
                with mine.make_handle(group, handle_mem=memory[:num_bytes]) as handle:
                    mine.run(handle)
                    rank.synchronize()
            assert (rank.read(memory)[num_bytes:] == GUARD).all()
            return mine.results()

    check(problem, mode, make_cluster(2, seed).run(main))


@pytest.mark.sim_only
def test_memory_follows_the_budget(make_cluster: Any) -> None:
    """A group whose ranks receive little needs little, and so do its handles."""
    problem = make_problem(Shape(num_ranks=4, num_topk=1, hidden=1024, max_tokens=64), seed=1)

    def main(rank: Any) -> list[tuple[int, int]]:
        found = []
        for budget in (64, 128, 256, 0):
            before = cluster.sim.usage(rank.rank)["device_bytes"]
            with ep.Group(rank.comm, group_config(problem, Mode(FLAT, budget=budget))) as group:
                window = cluster.sim.usage(rank.rank)["device_bytes"] - before
                found.append((window, group.handle_mem_size(FLAT, 1)))
            rank.barrier()
        return found

    cluster = make_cluster(4)
    row = 2048
    for sizes in cluster.run(main):
        windows, handles = zip(*sizes, strict=True)
        assert windows[0] < windows[1] < windows[2] == windows[3]
        assert handles[0] < handles[1] < handles[2] == handles[3]
        assert 256 * row <= windows[3] <= 1.1 * 256 * row + 64 * 1024


@LAYOUTS
@pytest.mark.sim_only
def test_nothing_is_left_behind(make_cluster: Any, layout: ep.Layout) -> None:
    problem = make_problem(Shape(), seed=1)
    mode = Mode(layout)

    exchange = partial(Exchange, problem=problem, mode=mode)
    check_that_nothing_is_left_behind(make_cluster(2), group_config(problem, mode), exchange)


def test_groups_of_both_algorithms_side_by_side(make_cluster: Any, seed: int) -> None:
    import ll

    mode = Mode(FLAT)
    problem = make_problem(Shape(num_topk=3), seed)

    def main(rank: Any) -> Any:
        with (
            ep.Group(rank.comm, group_config(problem, mode)) as high_throughput,
            ep.Group(rank.comm, ll.group_config(problem)) as low_latency,
        ):
            mine, other = Exchange(rank, problem, mode), ll.Exchange(rank, problem, ll.RM)
            handle, other_handle = mine.make_handle(high_throughput), other.make_handle(low_latency)
            for _ in range(2):
                mine.dispatch(handle)
                other.dispatch(other_handle)
                mine.combine(handle)
                other.combine(other_handle)
            return mine.results(), other.results()

    results = make_cluster(2, seed).run(main)
    check(problem, mode, [result[0] for result in results])
    ll.check(problem, ll.RM, [result[1] for result in results])


def test_one_group_serves_both_layouts(make_cluster: Any, seed: int) -> None:
    modes = [Mode(FLAT, budget=64), Mode(EM, budget=64, alignment=4)]
    problem = make_problem(Shape(num_topk=3), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, replace(modes[0]))) as group:
            pairs = [Exchange(rank, problem, mode) for mode in modes]
            handles = [mine.make_handle(group) for mine in pairs]
            for mine, handle in zip(pairs, handles, strict=True):
                mine.run(handle)
            return [mine.results() for mine in pairs]

    results = make_cluster(2, seed).run(main)
    for i, mode in enumerate(modes):
        check(problem, mode, [result[i] for result in results])

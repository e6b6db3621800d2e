# SPDX-License-Identifier: Apache-2.0
"""Runs of High-Throughput calls that several tests make, with and without enough room, checked to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nccl_ep as ep
from ht import Exchange, Mode, check, group_config
from ll import assert_same_bits
from oracle import Array, Problem


def exchange(rank: Any, problem: Problem, mode: Mode, **config: Any) -> dict[str, Array]:
    """What a rank receives in one step."""
    with ep.Group(rank.comm, group_config(problem, mode, **config)) as group:
        mine = Exchange(rank, problem, mode)
        with mine.make_handle(group) as handle:
            mine.run(handle)
            return mine.results()


def check_handles_in_turn(cluster: Any, problems: Sequence[Problem], modes: Sequence[Mode]) -> None:
    """Handles of one group, with nothing between their calls but the stream."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0], modes[0])) as group:
            pairs = [Exchange(rank, problem, mode) for problem, mode in zip(problems, modes, strict=True)]
            handles = [mine.make_handle(group) for mine in pairs]
            for _ in range(2):
                for mine, handle in zip(pairs, handles, strict=True):
                    mine.dispatch(handle)
                for mine, handle in zip(pairs, handles, strict=True):
                    mine.combine(handle)
            return [mine.results() for mine in pairs]

    results = cluster.run(main)
    for i, (problem, mode) in enumerate(zip(problems, modes, strict=True)):
        check(problem, mode, [result[i] for result in results])


def check_replays(cluster: Any, problems: Sequence[Problem], mode: Mode) -> None:
    """A graph of one step, replayed with each problem's table and numbers."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0], mode)) as group:
            mine = Exchange(rank, problems[0], mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            with rank.capture() as graph:
                mine.update(handle, graph.stream)
                mine.run(handle, graph.stream)
            names = [name for name in vars(mine) if name.startswith("received")]
            fresh = {name: rank.read(getattr(mine, name)) for name in names}
            seen = []
            for problem in problems:
                other = Exchange(rank, problem, mode)
                for name in ("tokens", "topk_idx", "topk_weights", "expert_rows", "gradients"):
                    rank.write(getattr(mine, name), rank.read(getattr(other, name)))
                for name, values in fresh.items():
                    rank.write(getattr(mine, name), values)
                graph.launch()
                rank.synchronize()
                seen.append(mine.results())
            return seen

    results = cluster.run(main)
    for i, problem in enumerate(problems):
        check(problem, mode, [result[i] for result in results])


def check_with_a_late_rank(cluster: Any, problem: Problem, mode: Mode, late: int, num_steps: int) -> None:
    """Some steps of which one rank is behind with all it does."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            for _ in range(num_steps):
                mine.update(handle)
                mine.run(handle)
            return mine.results()

    cluster.sim.delay(late, 20_000)
    check(problem, mode, cluster.run(main))


def check_same_bits(make_cluster: Any, problem: Problem, mode: Mode, seed: int) -> None:
    """Two runs of one step, on clusters with different seeds."""
    first = make_cluster(problem.num_ranks, seed=1).run(exchange, problem, mode)
    again = make_cluster(problem.num_ranks, seed=1000 + seed).run(exchange, problem, mode)
    for rank, (one, other) in enumerate(zip(first, again, strict=True)):
        for name in one:
            assert_same_bits(other[name], one[name], f"rank {rank}: {name}")

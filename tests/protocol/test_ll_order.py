# SPDX-License-Identifier: Apache-2.0
"""Calls in a row, from several handles, in halves, on several streams and from graphs: each delivers its own
rows.
"""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import NODES
from ll import EM, RM, Exchange, Shape, check, group_config, make_problem, refill

LAYOUTS = pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])


@LAYOUTS
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_calls_chained_without_host_waits(
    make_cluster: Any, layout: ep.Layout, num_ranks: int, seed: int
) -> None:
    problems = [make_problem(Shape(num_ranks=num_ranks, max_tokens=4), seed * 100 + i) for i in range(5)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            rounds = [Exchange(rank, problem, layout) for problem in problems]
            handles = [mine.make_handle(group) for mine in rounds]
            for mine, handle in zip(rounds, handles, strict=True):
                mine.run(handle)
            return [mine.results() for mine in rounds]

    results = make_cluster(num_ranks, seed).run(main)
    for i, problem in enumerate(problems):
        check(problem, layout, [result[i] for result in results])


@LAYOUTS
def test_chained_calls_into_windows(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problems = [make_problem(Shape(num_ranks=4, max_tokens=4), seed * 100 + i) for i in range(3)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            rounds = [Exchange(rank, problem, layout, windows=True) for problem in problems]
            handles = [mine.make_handle(group) for mine in rounds]
            for mine, handle in zip(rounds, handles, strict=True):
                mine.run(handle)
            return [mine.results() for mine in rounds]

    results = make_cluster(4, seed).run(main)
    for i, problem in enumerate(problems):
        check(problem, layout, [result[i] for result in results])


@NODES
def test_handles_of_one_group_take_turns(make_cluster: Any, nodes: int, seed: int) -> None:
    layouts = [EM, RM, EM]
    problems = [make_problem(Shape(num_ranks=2 * nodes, num_topk=k), seed + k) for k in (1, 2, 4)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            all_mine = [Exchange(rank, p, layout) for p, layout in zip(problems, layouts, strict=True)]
            handles = [mine.make_handle(group) for mine in all_mine]
            for mine, handle in zip(all_mine, handles, strict=True):
                mine.dispatch(handle)
            for mine, handle in reversed(list(zip(all_mine, handles, strict=True))):
                mine.combine(handle)
            return [mine.results() for mine in all_mine]

    results = make_cluster(2 * nodes, seed, nodes=nodes).run(main)
    for i, (problem, layout) in enumerate(zip(problems, layouts, strict=True)):
        check(problem, layout, [result[i] for result in results])


@LAYOUTS
def test_a_handle_takes_new_routings(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problems = [make_problem(Shape(max_tokens=6), seed * 10 + i) for i in range(3)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            rounds = [Exchange(rank, problem, layout) for problem in problems]
            with group.create_handle(layout, rounds[0].topk_idx) as handle:
                for mine in rounds:
                    handle.update(mine.topk_idx)
                    mine.run(handle)
                return [mine.results() for mine in rounds]

    results = make_cluster(2, seed).run(main)
    for i, problem in enumerate(problems):
        check(problem, layout, [result[i] for result in results])


@LAYOUTS
def test_one_routing_dispatched_twice(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            mine.run(handle)
            mine.run(handle)
            return mine.results()

    check(problem, layout, make_cluster(4, seed).run(main))


@LAYOUTS
def test_send_now_receive_later(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            for _ in range(2):
                mine.dispatch(handle, send_only=True)
                handle.complete()
                mine.combine(handle, send_only=True)
                handle.complete()
            handle.complete()  # nothing is pending, which is fine
            return mine.results()

    check(problem, layout, make_cluster(4, seed).run(main))


def test_complete_on_another_stream(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(), seed)

    def main(rank: Any) -> Any:
        sending, receiving = rank.stream(), rank.stream()
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, EM)
            handle = mine.make_handle(group)
            mine.dispatch(handle, sending, send_only=True)
            sending.synchronize()
            handle.complete(stream=receiving)
            receiving.synchronize()
            mine.combine(handle, sending)
            return mine.results()

    check(problem, EM, make_cluster(2, seed).run(main))


def test_the_groups_stream_is_the_default(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem), stream=rank.stream()) as group:
            mine = Exchange(rank, problem, EM)
            with mine.make_handle(group) as handle:
                mine.run(handle)
                group.stream.synchronize()
            return mine.results()

    check(problem, EM, make_cluster(2, seed).run(main))


@LAYOUTS
@NODES
def test_a_graph_replays_with_new_routes(make_cluster: Any, nodes: int, layout: ep.Layout, seed: int) -> None:
    """The graph keeps the addresses; tokens, routes and weights change between launches."""
    shape = Shape(num_ranks=4, num_topk=3, tokens=(4, 0, 8, 3))
    problems = [make_problem(shape, seed * 10 + i) for i in range(3)]

    def main(rank: Any) -> Any:
        found = []
        with ep.Group(rank.comm, group_config(problems[0])) as group:
            mine = Exchange(rank, problems[0], layout)
            handle = mine.make_handle(group)
            with rank.capture() as graph:
                mine.run(handle, graph.stream)
            for problem in problems:
                refill(rank, mine, Exchange(rank, problem, layout))
                graph.launch()
                graph.stream.synchronize()
                found.append(mine.results())
        return found

    results = make_cluster(4, seed, nodes=nodes).run(main)
    for i, problem in enumerate(problems):
        check(problem, layout, [result[i] for result in results])


def test_a_graph_replayed_back_to_back(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=2), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, EM)
            handle = mine.make_handle(group)
            with rank.capture() as graph:
                mine.run(handle, graph.stream)
            for _ in range(4):
                graph.launch()
            graph.stream.synchronize()
            mine.run(handle, graph.stream)  # and calls outside the graph go on from there
            return mine.results()

    check(problem, EM, make_cluster(2, seed).run(main))


@LAYOUTS
def test_a_graph_with_send_and_complete(make_cluster: Any, layout: ep.Layout, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=2), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine = Exchange(rank, problem, layout)
            handle = mine.make_handle(group)
            with rank.capture() as graph:
                mine.dispatch(handle, graph.stream, send_only=True)
                handle.complete(stream=graph.stream)
                mine.combine(handle, graph.stream)
            for _ in range(3):
                graph.launch()
            return mine.results()

    check(problem, layout, make_cluster(2, seed).run(main))


def test_results_do_not_depend_on_what_ran_before(make_cluster: Any) -> None:
    """Epochs wrap into the two banks many times; leftovers of earlier calls must not show."""
    problem = make_problem(Shape(tokens=(3, 2), max_tokens=4), seed=5)
    last = make_problem(Shape(tokens=(4, 4), max_tokens=4), seed=6)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem)) as group:
            mine, final = Exchange(rank, problem, EM), Exchange(rank, last, EM)
            handle = mine.make_handle(group)
            for _ in range(9):
                mine.run(handle)
            handle.update(final.topk_idx)
            final.run(handle)
            assert np.isfinite(mine.results()["combined"].astype(np.float32)).all()
            return final.results()

    check(last, EM, make_cluster(2).run(main))

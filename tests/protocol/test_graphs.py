# SPDX-License-Identifier: Apache-2.0
"""Graphs: whole steps with the caller's work between and another number of tokens at each replay, pieces of a
step, and what runs at the same time on several streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ht
import ll
import nccl_ep as ep
import numpy as np
import pytest
from both import NODES
from graphs import CountedStep, Lane, check_counted, run_in_flight
from ll import Shape, make_problem
from oracle import Array, Problem

MAX_TOKENS = 6
STEP = ("dispatch", "combine")
COUNTS = ((2, 5, 0, 6), (6, 6, 6, 6), (0, 1, 3, 0), (0, 0, 0, 0))  # of the ranks, at each replay
IN_HALVES = pytest.mark.parametrize("captured", [False, True], ids=["called", "captured"])


@dataclass(frozen=True)
class Kind:
    """An algorithm with a layout."""

    config: Callable[[Problem], ep.GroupConfig]
    exchange: Callable[[Any, Problem], Any]
    expected: Callable[[Problem, int], dict[str, Array]]
    layout: ep.Layout
    is_ll: bool


def low_latency(layout: ep.Layout) -> Kind:
    return Kind(
        config=ll.group_config,
        exchange=partial(ll.Exchange, layout=layout),
        expected=partial(ll.expected, layout=layout),
        layout=layout,
        is_ll=True,
    )


def high_throughput(layout: ep.Layout, *, backward: bool = False, team_size: int = 0) -> Kind:
    mode = ht.Mode(layout, budget=4 * MAX_TOKENS * 2, backward=backward)
    mode = replace(mode, team_size=team_size or mode.team_size)
    return Kind(
        config=partial(ht.group_config, mode=mode),
        exchange=partial(ht.Exchange, mode=mode),
        expected=partial(ht.expected, mode=mode),
        layout=layout,
        is_ll=False,
    )


KINDS = {
    "ll-em": low_latency(ll.EM),
    "ll-rm": low_latency(ll.RM),
    "ht-flat": high_throughput(ht.FLAT),
    "ht-em": high_throughput(ht.EM),
}
ALL = pytest.mark.parametrize("name", KINDS)


def problem_with(counts: tuple[int, ...], seed: int) -> Problem:
    return make_problem(Shape(num_ranks=len(counts), max_tokens=MAX_TOKENS, tokens=counts), seed)


def check_replays(cluster: Any, kind: Kind, counts: tuple[tuple[int, ...], ...], seed: int) -> None:
    """A graph of a step, captured once and replayed with all of these numbers of tokens."""
    problems = [problem_with(c, seed * 10 + i) for i, c in enumerate(counts)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, kind.config(problems[0])) as group:
            step = CountedStep(rank, problems[0], partial(kind.exchange, rank), seed)
            handle = group.init_handle(kind.layout, problems[0].num_topk)
            with rank.capture() as graph:
                step.run(handle, graph.stream)
            found = []
            for i, problem in enumerate(problems):
                step.prepare(problem)
                if i == 1:  # a handle of its own, which the graph knows nothing of
                    group.init_handle(kind.layout, 1).close()
                graph.launch()
                graph.stream.synchronize()
                found.append(step.results())
            return found

    results = cluster.run(main)
    for i, problem in enumerate(problems):
        wanted = [kind.expected(problem, rank) for rank in range(problem.num_ranks)]
        check_counted(wanted, [result[i] for result in results])


@ALL
@pytest.mark.sim_only
def test_no_group_or_handle_is_made_or_destroyed_in_a_capture(
    make_cluster: Any, name: str, seed: int
) -> None:
    kind, problem = KINDS[name], problem_with((MAX_TOKENS,) * 2, seed)

    def main(rank: Any) -> None:
        with ep.Group(rank.comm, kind.config(problem)) as group:
            handle = group.init_handle(kind.layout, problem.num_topk)
            with rank.capture():
                with pytest.raises(ep.InvalidUsage, match="is captured"):
                    group.init_handle(kind.layout, problem.num_topk)
                with pytest.raises(ep.InvalidUsage, match="is captured"):
                    ep.Group(rank.comm, kind.config(problem))
            with pytest.raises(ep.InvalidUsage, match="was freed during the capture"), rank.capture():
                handle.close()

    make_cluster(2, seed).run(main)


@ALL
def test_a_graph_replays_with_other_numbers_of_tokens(make_cluster: Any, name: str, seed: int) -> None:
    check_replays(make_cluster(4, seed), KINDS[name], COUNTS, seed)


@pytest.mark.sim_only
@pytest.mark.parametrize(
    "kind",
    [*(low_latency(layout) for layout in (ll.EM, ll.RM)), high_throughput(ht.FLAT, team_size=2)],
    ids=["ll-em", "ll-rm", "ht-flat"],
)
def test_a_graph_replays_with_other_numbers_of_tokens_across_teams(
    make_cluster: Any, kind: Kind, seed: int
) -> None:
    check_replays(make_cluster(4, seed, nodes=2), kind, COUNTS[:3], seed)


def test_the_backward_pass_brings_home_as_many_gradients(make_cluster: Any, seed: int) -> None:
    kind = high_throughput(ht.FLAT, backward=True)
    check_replays(make_cluster(2, seed), kind, ((3, 6), (6, 0)), seed)


@ALL
def test_a_number_that_cannot_be(make_cluster: Any, name: str) -> None:
    """It is named, and nothing is read or written behind the tensors."""
    kind, problem = KINDS[name], problem_with((3, 3), 1)

    def main(rank: Any, count: int) -> str:
        config = replace(kind.config(problem), timeout_ns=100_000_000)
        with ep.Group(rank.comm, config) as group:
            mine = kind.exchange(rank, problem)
            mine.count = rank.array(np.array([count if rank.rank == 0 else 3], np.int32))
            handle = group.init_handle(kind.layout, problem.num_topk)
            mine.update(handle)
            if kind.is_ll:
                mine.dispatch(handle)
            rank.synchronize()
            if rank.rank != 0:
                group.async_error()  # it may have waited in vain
                return ""
            with pytest.raises(ep.InvalidArgument) as failure:
                mine.dispatch(handle)
            return str(failure.value)

    for count in (4, -1):
        said = make_cluster(2).run(main, count)[0]
        assert f"layout_info.num_tokens: rank 0 has {count}, expected 0 to 3" in said


@ALL
def test_pieces_of_a_step_replayed_in_order(make_cluster: Any, name: str, seed: int) -> None:
    """Every call is captured alone. A handle that is made in between changes nothing."""
    kind, counts = KINDS[name], ((6, 2), (1, 4))
    problems = [problem_with(c, seed * 10 + i) for i, c in enumerate(counts)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, kind.config(problems[0])) as group:
            step = CountedStep(rank, problems[0], partial(kind.exchange, rank), seed)
            handle = group.init_handle(kind.layout, problems[0].num_topk)
            graphs = []
            for put in step.pieces(handle, halves=kind.is_ll):
                with rank.capture() as graph:
                    put(graph.stream)
                graphs.append(graph)
            other = group.init_handle(kind.layout, problems[0].num_topk)
            found = []
            for problem in problems:
                step.prepare(problem)
                stream = rank.stream()
                for graph in graphs:
                    graph.launch(stream)
                stream.synchronize()
                found.append(step.results())
            step.run(other, stream)  # calls and replays mix
            stream.synchronize()
            return [*found, step.results()]

    results = make_cluster(2, seed).run(main)
    for i, problem in enumerate([*problems, problems[-1]]):
        wanted = [kind.expected(problem, rank) for rank in range(problem.num_ranks)]
        check_counted(wanted, [result[i] for result in results])


@IN_HALVES
@NODES
def test_two_micro_batches_in_flight(make_cluster: Any, nodes: int, captured: bool, seed: int) -> None:
    """Both have an operation pending most of the time, on streams of their own."""
    layouts = (ll.EM, ll.RM)
    problems = [make_problem(Shape(num_ranks=4, num_topk=3, max_tokens=4), seed * 10 + i) for i in range(2)]

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0])) as group:
            exchanges = [ll.Exchange(rank, p, layout) for p, layout in zip(problems, layouts, strict=True)]
            handles = [mine.make_handle(group) for mine in exchanges]
            if captured:
                with rank.capture() as graph:
                    streams = graph.stream, rank.stream()
                    run_in_flight(
                        [Lane(*lane) for lane in zip(exchanges, handles, streams, strict=True)], STEP
                    )
                for _ in range(3):
                    graph.launch()
            else:
                streams = rank.stream(), rank.stream()
                run_in_flight(
                    [Lane(*lane) for lane in zip(exchanges, handles, streams, strict=True)], 3 * STEP
                )
            rank.synchronize()
            return [mine.results() for mine in exchanges]

    results = make_cluster(4, seed, nodes=nodes).run(main)
    for i, (problem, layout) in enumerate(zip(problems, layouts, strict=True)):
        ll.check(problem, layout, [result[i] for result in results])


@IN_HALVES
def test_the_next_layers_dispatch_beside_this_ones_combine(
    make_cluster: Any, captured: bool, seed: int
) -> None:
    """A handle for each layer. Dispatch, whole, begins while the combine before is still to be received."""
    problems = [make_problem(Shape(num_ranks=2, num_topk=3, max_tokens=4), seed * 10 + i) for i in range(3)]

    def layers(exchanges: list[Any], handles: list[ep.Handle], streams: list[Any]) -> None:
        exchanges[0].dispatch(handles[0], streams[0])
        for i, (mine, handle) in enumerate(zip(exchanges, handles, strict=True)):
            here, there = streams[i % 2], streams[(i + 1) % 2]
            mine.combine(handle, here, send_only=True)
            there.wait(here.record())
            if i + 1 < len(exchanges):
                exchanges[i + 1].dispatch(handles[i + 1], there)
            handle.complete(stream=here)
            there.wait(here.record())  # the next combine begins when this one is complete
        streams[0].wait(streams[1].record())

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ll.group_config(problems[0])) as group:
            exchanges = [ll.Exchange(rank, problem, ll.RM) for problem in problems]
            handles = [mine.make_handle(group) for mine in exchanges]
            if captured:
                with rank.capture() as graph:
                    layers(exchanges, handles, [graph.stream, rank.stream()])
                for _ in range(2):
                    graph.launch()
            else:
                layers(exchanges, handles, [rank.stream(), rank.stream()])
            rank.synchronize()
            return [mine.results() for mine in exchanges]

    results = make_cluster(2, seed).run(main)
    for i, problem in enumerate(problems):
        ll.check(problem, ll.RM, [result[i] for result in results])


def test_two_groups_beside_one_another_in_a_graph(make_cluster: Any, seed: int) -> None:
    """Each has half of the SMs, so its kernels need not wait for the other's; the caller orders nothing."""
    problems = [problem_with((4, 3), seed * 10 + i) for i in range(2)]
    modes = [ht.Mode(layout, budget=2 * MAX_TOKENS * 2) for layout in (ht.FLAT, ht.EM)]

    def main(rank: Any) -> Any:
        configs = [ht.group_config(p, m, max_num_sms=2) for p, m in zip(problems, modes, strict=True)]
        with ep.Group(rank.comm, configs[0]) as first, ep.Group(rank.comm, configs[1]) as second:
            exchanges = [ht.Exchange(rank, p, m) for p, m in zip(problems, modes, strict=True)]
            handles = [mine.make_handle(g) for mine, g in zip(exchanges, (first, second), strict=True)]
            rank.synchronize()
            with rank.capture() as graph:
                streams = graph.stream, rank.stream()
                streams[1].wait(streams[0].record())
                for mine, handle, stream in zip(exchanges, handles, streams, strict=True):
                    mine.update(handle, stream)
                    mine.run(handle, stream)
                streams[0].wait(streams[1].record())
            for _ in range(2):
                graph.launch()
            rank.synchronize()
            return [mine.results() for mine in exchanges]

    results = make_cluster(2, seed, sms=4).run(main)
    for i, (problem, mode) in enumerate(zip(problems, modes, strict=True)):
        ht.check(problem, mode, [result[i] for result in results])

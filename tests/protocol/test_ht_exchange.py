# SPDX-License-Identifier: Apache-2.0
"""High-Throughput dispatch and combine deliver what the oracle says, to the bit, for any shape and mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from both import NODES
from ht import EM, FLAT, Exchange, Mode, Shape, budget_for, check, group_config, make_problem
from ht_runs import check_handles_in_turn, check_replays, check_same_bits, exchange
from ll import BF16, FP16, FP32

MODES = pytest.mark.parametrize(
    "mode",
    [
        Mode(FLAT),
        Mode(FLAT, windows=True),
        Mode(FLAT, backward=True),
        Mode(EM),
        Mode(EM, windows=True, alignment=4),
        Mode(EM, backward=True),
    ],
    ids=str,
)


@MODES
@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_ranks(make_cluster: Any, mode: Mode, num_ranks: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=num_ranks, num_topk=2), seed)
    check(problem, mode, make_cluster(num_ranks, seed).run(exchange, problem, mode))


@MODES
def test_a_budget(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = replace(mode, budget=budget_for(problem, mode))
    check(problem, mode, make_cluster(4, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=lambda dtype: dtype.name)
def test_types(make_cluster: Any, mode: Mode, dtype: Any, seed: int) -> None:
    problem = make_problem(Shape(dtype=dtype, num_topk=4, num_local_experts=4), seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("num_topk", [1, 4, 9, 33, 64])
def test_topk(make_cluster: Any, mode: Mode, num_topk: int, seed: int) -> None:
    shape = Shape(num_local_experts=-(-num_topk // 2) + 1, num_topk=num_topk, max_tokens=5)
    problem = make_problem(shape, seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("hidden", [8, 24, 1024, 2880, 7168, 7176, 16384])
def test_hidden(make_cluster: Any, mode: Mode, hidden: int) -> None:
    problem = make_problem(Shape(hidden=hidden, tokens=(3, 2), max_tokens=4), seed=hidden)
    check(problem, mode, make_cluster(2).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("tokens", [(0, 0), (0, 5), (8, 0), (1, 8)], ids=str)
def test_token_counts_differ_between_ranks(make_cluster: Any, mode: Mode, tokens: Any, seed: int) -> None:
    problem = make_problem(Shape(tokens=tokens), seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


@MODES
def test_tokens_without_routes_get_zeros(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(no_route=1.0, tokens=(4, 3)), seed)
    results = make_cluster(2, seed).run(exchange, problem, mode)
    check(problem, mode, results)
    assert not any(result["combined"].astype(np.float32).any() for result in results)


@MODES
def test_an_expert_named_twice_gets_the_token_once(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_local_experts=3, num_topk=6, repeats=True, tokens=(6, 6)), seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


@MODES
def test_all_tokens_to_one_expert(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Three of four ranks receive nothing."""
    problem = make_problem(Shape(num_ranks=4, num_topk=1, tokens=(8, 8, 8, 8)), seed)
    for routes in problem.topk_idx:
        routes[...] = 3
    check(problem, mode, make_cluster(4, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("num_sms", [1, 3])
def test_few_sms(make_cluster: Any, mode: Mode, num_sms: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    results = make_cluster(4, seed).run(lambda rank: exchange(rank, problem, mode, max_num_sms=num_sms))
    check(problem, mode, results)


@MODES
@NODES
def test_ranks_may_have_sms_as_they_like(make_cluster: Any, mode: Mode, nodes: int, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = mode if nodes == 1 else replace(mode, team_size=4 // nodes)
    cluster = make_cluster(4, seed, nodes=nodes)
    results = cluster.run(lambda rank: exchange(rank, problem, mode, max_num_sms=1 + rank.rank))
    check(problem, mode, results)


@MODES
@pytest.mark.parametrize("push_blocks", [1, 2, 3, 4])
def test_every_split_of_the_blocks(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch, mode: Mode, push_blocks: int, seed: int
) -> None:
    """Some blocks push and the others receive, or all do both."""
    monkeypatch.setenv("NCCL_EP_HT_TUNING", f"push_blocks={push_blocks}")
    problem = make_problem(Shape(num_ranks=4, num_topk=4), seed)
    results = make_cluster(4, seed).run(lambda rank: exchange(rank, problem, mode, max_num_sms=4))
    check(problem, mode, results)


@MODES
def test_many_tokens(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_topk=2, hidden=8, max_tokens=300, tokens=(300, 141)), seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


def test_global_expert_ids(make_cluster: Any, seed: int) -> None:
    problem = make_problem(Shape(num_topk=3), seed)
    mode = Mode(FLAT, global_ids=True)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


@MODES
@pytest.mark.parametrize("zero_copy", [ep.ZeroCopyMode.OFF, ep.ZeroCopyMode.ON], ids=lambda z: z.name)
def test_zero_copy_off_and_on(make_cluster: Any, mode: Mode, zero_copy: ep.ZeroCopyMode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=3), seed)
    mode = replace(mode, windows=True)
    results = make_cluster(4, seed).run(lambda rank: exchange(rank, problem, mode, zero_copy=zero_copy))
    check(problem, mode, results)


@MODES
def test_calls_follow_each_other_without_the_host(make_cluster: Any, mode: Mode, seed: int) -> None:
    """Several handles in turn, forward and backward mixed, with nothing between them but the stream."""
    problems = [make_problem(Shape(num_ranks=4, num_topk=2), seed + i) for i in range(3)]
    modes = [replace(mode, budget=32, backward=(i == 1)) for i in range(3)]
    check_handles_in_turn(make_cluster(4, seed), problems, modes)


@MODES
def test_a_captured_step_follows_the_table_at_each_replay(make_cluster: Any, mode: Mode, seed: int) -> None:
    mode = replace(mode, budget=64)
    problems = [make_problem(Shape(tokens=(5, 7)), seed + i) for i in range(3)]
    check_replays(make_cluster(2, seed), problems, mode)


@MODES
def test_same_bits_in_every_run(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4, num_topk=4), seed=0)
    check_same_bits(make_cluster, problem, mode, seed)


def test_eager_dispatch_follows_a_captured_update(make_cluster: Any, seed: int) -> None:
    """The host cannot know how often a graph has run: it asks the stream."""
    mode = Mode(FLAT)
    problem = make_problem(Shape(tokens=(5, 7)), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            rank.synchronize()
            with rank.capture() as graph:
                mine.update(handle, graph.stream)
            graph.launch()
            mine.run(handle, graph.stream)
            return mine.results()

    check(problem, mode, make_cluster(2, seed).run(main))


@pytest.mark.parametrize("mode", [Mode(FLAT), Mode(EM)], ids=str)
def test_update_and_dispatch_may_be_given_the_same_layout_info(
    make_cluster: Any, mode: Mode, seed: int
) -> None:
    """As NCCL EP allows it. Dispatch leaves the counters as they are."""
    problem = make_problem(Shape(tokens=(5, 7)), seed)

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, group_config(problem, mode)) as group:
            mine = Exchange(rank, problem, mode)
            handle = mine.make_handle(group)
            before = mine.counters()
            offsets = {"expert_offsets": mine.expert_offsets} if mode.layout is EM else {}
            handle.dispatch(
                ep.DispatchInputs(mine.tokens, mine.topk_weights),
                ep.DispatchOutputs(
                    ep.Tensor(mine.received, window=mine.window),
                    mine.received_weights,
                    topk_idx=None if mode.layout is EM else mine.received_idx,
                ),
                layout_info=ep.LayoutInfo(
                    expert_counters=mine.expert_counters, recv_total_counter=mine.total, **offsets
                ),
            )
            mine.combine(handle)
            found = mine.results()
            assert all((found[name] == values).all() for name, values in before.items())
            return found

    check(problem, mode, make_cluster(2, seed).run(main))


@pytest.mark.sim_only
@pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])
def test_32_ranks(make_cluster: Any, layout: ep.Layout) -> None:
    shape = Shape(num_ranks=32, num_local_experts=1, num_topk=4, hidden=16, max_tokens=2)
    problem = make_problem(shape, seed=1)
    mode = Mode(layout)
    check(problem, mode, make_cluster(32, sms=1).run(exchange, problem, mode))

# SPDX-License-Identifier: Apache-2.0
"""A graph of a whole model, replayed for a long time with other tokens, routes and numbers of tokens.

What a layer combines are the next one's tokens, so the last result tells whether all have been right. On the
simulator the model is tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ht
import ht_oracle
import ll
import nccl_ep as ep
import numpy as np
import oracle
import pytest
from graphs import padded
from ll import FP32, Shape, assert_same_bits, make_problem
from oracle import Array, Problem

NUM_RANKS = 2
NUM_TABLES = 4  # of routes: layers take them in turn
NUM_INPUTS = 6
SHAPE = Shape(num_ranks=NUM_RANKS, num_local_experts=4, num_topk=4, hidden=256, max_tokens=32, dtype=FP32)
MODE = ht.Mode(ht.FLAT, budget=NUM_RANKS * SHAPE.max_tokens)


@dataclass(frozen=True)
class Model:
    """An algorithm with a layout, and what a layer makes of tokens whose experts give back what they get."""

    layout: ep.Layout
    config: Callable[[Problem], ep.GroupConfig]
    exchange: Callable[[Any, Problem], Any]
    layer: Callable[[Problem, int], Array]


def low_latency_layer(problem: Problem, rank: int) -> Array:
    before = ll.poisoned(problem, ll.EM)
    ranks = range(problem.num_ranks)
    rows = [oracle.dispatch_expert_major(problem, r, before)[0] for r in ranks]
    return oracle.combine_expert_major(problem, rank, rows)


def high_throughput_layer(problem: Problem, rank: int) -> Array:
    ranks = range(problem.num_ranks)
    rows = [ht_oracle.dispatch_flat(problem, r, ht.poisoned(problem, r, MODE), None).tokens for r in ranks]
    return ht_oracle.combine_flat(problem, rank, rows, None, MODE.team_size)


MODELS = {
    "ll": Model(ll.EM, ll.group_config, partial(ll.Exchange, layout=ll.EM), low_latency_layer),
    "ht": Model(
        ht.FLAT,
        partial(ht.group_config, mode=MODE),
        partial(ht.Exchange, mode=MODE),
        high_throughput_layer,
    ),
}


def make_inputs(seed: int) -> list[Problem]:
    """The same tokens with each table of routes. Sums stay in bounds, however many layers add up."""
    first = make_problem(SHAPE, seed)
    others = [
        make_problem(replace(SHAPE, tokens=tuple(map(len, first.tokens))), seed + i) for i in range(1, 4)
    ]
    weights = [given / SHAPE.num_topk for given in first.topk_weights]
    return [
        replace(first, topk_idx=tables.topk_idx, topk_weights=weights)
        for tables in [first, *others][:NUM_TABLES]
    ]


def last_tokens(model: Model, inputs: list[Problem], num_layers: int) -> list[Array]:
    """What comes out behind the last layer, on every rank."""
    tokens = inputs[0].tokens
    for i in range(num_layers):
        problem = replace(inputs[i % NUM_TABLES], tokens=tokens)
        tokens = [model.layer(problem, rank) for rank in range(NUM_RANKS)]
    return tokens


class Buffers:
    """One rank's: exchanges that have all but their tables of routes in common, and inputs to choose from."""

    SHARED = ("tokens", "topk_weights", "count")

    def __init__(self, rank: Any, model: Model, all_inputs: list[list[Problem]]) -> None:
        self.rank, me = rank, rank.rank
        spacious = [padded(problem, seed=1) for problem in all_inputs[0]]
        self.tables = [model.exchange(rank, problem) for problem in spacious]
        self.mine = self.tables[0]
        self.mine.count = rank.array(np.zeros(1, np.int32))
        for other in self.tables[1:]:
            for name in ("tokens", "topk_weights", "count", "received", "expert_rows", "combined"):
                setattr(other, name, getattr(self.mine, name))
        self._inputs = []
        for inputs in all_inputs:
            filled = [padded(problem, seed=1) for problem in inputs]
            count = np.array([len(inputs[0].tokens[me])], np.int32)
            shared = (filled[0].tokens[me], filled[0].topk_weights[me], count)
            self._inputs.append(
                [*map(rank.array, shared), *(rank.array(problem.topk_idx[me]) for problem in filled)]
            )

    def choose(self, i: int, stream: Any) -> None:
        """Takes the i-th inputs, in stream order."""
        targets = [getattr(self.mine, name) for name in self.SHARED] + [own.topk_idx for own in self.tables]
        for target, source in zip(targets, self._inputs[i], strict=True):
            stream.copy(target, source)

    def put_layer(self, i: int, handle: ep.Handle, stream: Any) -> None:
        mine = self.tables[i % NUM_TABLES]
        mine.update(handle, stream)
        mine.dispatch(handle, stream)
        stream.copy(mine.expert_rows, mine.received)
        mine.combine(handle, stream)
        stream.copy(mine.tokens, mine.combined)


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_of_all_layers(
    make_cluster: Any, device: str, name: str, seed: int, pytestconfig: pytest.Config
) -> None:
    model, on_gpus = MODELS[name], device == "cuda"
    num_layers, num_replays = (61, pytestconfig.getoption("--replays")) if on_gpus else (3, 4)
    all_inputs = [make_inputs(seed * 1000 + 10 * i) for i in range(NUM_INPUTS if on_gpus else 2)]
    expected = [last_tokens(model, inputs, num_layers) for inputs in all_inputs]
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(all_inputs), num_replays)
    checked = {*random.integers(0, num_replays, 1 + num_replays // 100).tolist(), num_replays - 1}

    def main(rank: Any) -> None:
        with ep.Group(rank.comm, model.config(all_inputs[0][0])) as group:
            buffers = Buffers(rank, model, all_inputs)
            handles = [group.init_handle(model.layout, SHAPE.num_topk) for _ in range(NUM_TABLES)]
            with rank.capture() as graph:
                for i in range(num_layers):
                    buffers.put_layer(i, handles[i % NUM_TABLES], graph.stream)
            for replay, i in enumerate(chosen.tolist()):
                buffers.choose(i, graph.stream)
                graph.launch()
                if replay in checked:
                    found, wanted = rank.read(buffers.mine.combined), expected[i][rank.rank]
                    assert_same_bits(found[: len(wanted)], wanted, f"replay {replay}, rank {rank.rank}")

    make_cluster(NUM_RANKS, seed).run(main)

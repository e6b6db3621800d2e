# SPDX-License-Identifier: Apache-2.0
"""What the tests of graphs share: steps whose number of tokens stands in device memory, and operations of two
handles that are in flight together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import nccl_ep as ep
import numpy as np
from ll import POISON, assert_same_bits
from oracle import Array, Problem


def padded(problem: Problem, seed: int) -> Problem:
    """The problem in tensors with room for the most tokens. Behind its own are rows that nobody may use.

    They would go to experts, and turn every sum into NaN.
    """
    random = np.random.default_rng(seed)

    def fill(rows: list[Array], more: Callable[[tuple[int, ...]], Array]) -> list[Array]:
        return [
            np.concatenate([own, more((problem.max_tokens - len(own), own.shape[1])).astype(own.dtype)])
            for own in rows
        ]

    return replace(
        problem,
        tokens=fill(problem.tokens, lambda shape: np.full(shape, np.nan)),
        topk_idx=fill(problem.topk_idx, lambda shape: random.integers(0, problem.num_experts, shape)),
        topk_weights=fill(problem.topk_weights, lambda shape: np.full(shape, np.nan)),
    )


class CountedStep:
    """Update, dispatch, the caller's work and combine with one rank's buffers, for any number of tokens.

    The caller's work is copies: tokens, routes, weights and their number come from elsewhere before the
    update, and what the experts have made comes between dispatch and combine.

    Attributes:
        mine: the buffers, an ``Exchange`` of :mod:`ll` or of :mod:`ht`, with room for the most tokens.
    """

    BEFORE = ("tokens", "topk_idx", "topk_weights", "count")
    BETWEEN = ("expert_rows",)

    def __init__(self, rank: Any, problem: Problem, make: Callable[[Problem], Any], seed: int) -> None:
        self.rank, self._make, self._seed = rank, make, seed
        self.mine = make(padded(problem, seed))
        self.mine.expert_rows = make(problem).expert_rows  # of the tokens that there are
        self.mine.count = rank.array(np.array([-1], np.int32))
        self._staged = {
            name: rank.array(rank.read(self._buffer(name))) for name in (*self.BEFORE, *self.BETWEEN)
        }
        self._outputs = [name for name in vars(self.mine) if name.startswith(("received", "combined"))]
        self._fresh = {name: rank.read(self._buffer(name)) for name in self._outputs}

    def _buffer(self, name: str) -> Any:
        return getattr(self.mine, name)

    def _copy(self, names: Sequence[str], stream: Any) -> None:
        for name in names:
            stream.copy(self._buffer(name), self._staged[name])

    def run(self, handle: ep.Handle, stream: Any) -> None:
        """Puts the whole step on a stream."""
        self._copy(self.BEFORE, stream)
        self.mine.update(handle, stream)
        self.mine.dispatch(handle, stream)
        self._copy(self.BETWEEN, stream)
        self.mine.combine(handle, stream)

    def pieces(self, handle: ep.Handle, *, halves: bool) -> list[Callable[[Any], None]]:
        """The same as single calls, to be made in this order: each puts its own on a stream."""
        parts = [
            lambda stream: self._copy(self.BEFORE, stream),
            lambda stream: self.mine.update(handle, stream),
            lambda stream: self._copy(self.BETWEEN, stream),
        ]
        if not halves:
            return [*parts, lambda s: self.mine.dispatch(handle, s), lambda s: self.mine.combine(handle, s)]
        return [
            *parts,
            lambda stream: self.mine.dispatch(handle, stream, send_only=True),
            lambda stream: handle.complete(stream=stream),
            lambda stream: self.mine.combine(handle, stream, send_only=True),
            lambda stream: handle.complete(stream=stream),
        ]

    def prepare(self, problem: Problem) -> None:
        """What the next run is about. Nothing may be pending."""
        count = len(problem.tokens[self.rank.rank])
        given, rows = self._make(padded(problem, self._seed + count)), self._make(problem).expert_rows
        given.count = self.rank.array(np.array([count], np.int32))
        for name in self.BEFORE:
            self.rank.write(self._staged[name], self.rank.read(getattr(given, name)))
        self.rank.write(self._staged["expert_rows"], self.rank.read(rows))
        for name, values in self._fresh.items():
            self.rank.write(self._buffer(name), values)

    def results(self) -> dict[str, Array]:
        return dict(self.mine.results())


def check_counted(expected: list[dict[str, Array]], results: list[dict[str, Array]]) -> None:
    """Compares what every rank has with what it must have. Where home has room for more, poison stays."""
    for rank, (wanted, found) in enumerate(zip(expected, results, strict=True)):
        for name, values in wanted.items():
            room = len(found[name]) - len(values)
            if name.startswith("combined") and room > 0:
                rest = np.full((room, *values.shape[1:]), POISON, values.dtype)
                values = np.concatenate([values, rest])
            assert_same_bits(found[name], values, f"rank {rank}: {name}")


@dataclass(frozen=True)
class Lane:
    """A micro-batch: its buffers, its handle, and the stream of all it does."""

    exchange: Any
    handle: ep.Handle
    stream: Any


class Receipt(Enum):
    """When an operation is received at the earliest, of those that `run_in_flight` makes."""

    ANY_TIME = 0
    AS_THE_NEXT_BEGINS = 1
    BEHIND_THE_NEXT = 2


def run_in_flight(
    lanes: Sequence[Lane], operations: Sequence[str], receipt: Receipt = Receipt.ANY_TIME
) -> None:
    """Operations of two lanes in turn. Each begins while the other's last one is still to be received.

    Operations begin one after the other, for which events are handed on. The first lane's stream ends behind
    all.
    """
    about_to_begin = begun = None
    for operation in operations:
        for lane in lanes:
            first = {Receipt.AS_THE_NEXT_BEGINS: about_to_begin, Receipt.BEHIND_THE_NEXT: begun}.get(receipt)
            if first is not None:
                lane.stream.wait(first)
            lane.handle.complete(stream=lane.stream)
            if begun is not None:
                lane.stream.wait(begun)
            about_to_begin = lane.stream.record()
            getattr(lane.exchange, operation)(lane.handle, lane.stream, send_only=True)
            begun = lane.stream.record()
    for lane in lanes:
        lane.handle.complete(stream=lane.stream)
    for lane in lanes[1:]:
        lanes[0].stream.wait(lane.stream.record())

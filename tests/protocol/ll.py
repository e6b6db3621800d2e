# SPDX-License-Identifier: Apache-2.0
"""What the Low-Latency tests share: random problems, one rank's buffers for a problem, and the comparison.

Combine does not use what dispatch received: its input rows are random, different for each expert, and NaN
wherever no token is. So a rank can chain any number of calls without waiting for the host in between, and a
row that is read from the wrong place shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import nccl_ep as ep
import numpy as np
import numpy.typing as npt
import oracle
from oracle import Problem

Array = npt.NDArray[Any]

BF16 = np.dtype(ml_dtypes.bfloat16)
FP16 = np.dtype(np.float16)
FP32 = np.dtype(np.float32)
EM, RM = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR
POISON = -77.0


@dataclass(frozen=True)
class Shape:
    """A kind of problem. ``tokens`` are per rank; None draws 0 to max_tokens for each."""

    num_ranks: int = 2
    num_local_experts: int = 2
    num_topk: int = 2
    hidden: int = 64
    max_tokens: int = 8
    tokens: tuple[int, ...] | None = None
    dtype: np.dtype[Any] = BF16
    idx_dtype: type = np.int64
    no_route: float = 0.1
    repeats: bool = False

    def __str__(self) -> str:
        return (
            f"{self.num_ranks}ranks-{self.num_local_experts}x-top{self.num_topk}-h{self.hidden}-"
            f"{self.dtype.name}-{np.dtype(self.idx_dtype).name}"
        )


def make_problem(shape: Shape, seed: int) -> Problem:
    """A random problem of this shape."""
    random = np.random.default_rng(seed)
    counts = shape.tokens or tuple(int(n) for n in random.integers(0, shape.max_tokens + 1, shape.num_ranks))
    num_experts = shape.num_ranks * shape.num_local_experts
    return Problem(
        num_experts=num_experts,
        max_tokens=shape.max_tokens,
        tokens=[random.standard_normal((b, shape.hidden), np.float32).astype(shape.dtype) for b in counts],
        topk_idx=[_routes(random, b, num_experts, shape) for b in counts],
        topk_weights=[random.random((b, shape.num_topk), np.float32) for b in counts],
    )


def _routes(random: np.random.Generator, num_tokens: int, num_experts: int, shape: Shape) -> Array:
    routes = np.empty((num_tokens, shape.num_topk), shape.idx_dtype)
    for row in routes:
        row[:] = random.choice(num_experts, shape.num_topk, replace=shape.repeats)
    routes[random.random(routes.shape) < shape.no_route] = -1
    return routes


def group_config(problem: Problem, **changes: Any) -> ep.GroupConfig:
    """The smallest group that fits a problem."""
    config = ep.GroupConfig(
        num_experts=problem.num_experts,
        max_dispatch_tokens_per_rank=problem.max_tokens,
        max_token_bytes=problem.hidden * problem.dtype.itemsize,
    )
    return replace(config, **changes)


class Exchange:
    """One rank's buffers for one problem, poisoned, and the calls that use them.

    Attributes:
        count: where the number of tokens is, for ``update``; None: all.
    """

    count: Any = None

    def __init__(self, rank: Any, problem: Problem, layout: ep.Layout, *, windows: bool = False) -> None:
        self.rank, self.problem, self.layout = rank, problem, layout
        me, b = rank.rank, len(problem.tokens[rank.rank])
        self.tokens = rank.array(problem.tokens[me])
        self.topk_idx = rank.array(problem.topk_idx[me])
        self.topk_weights = rank.array(problem.topk_weights[me])
        self.expert_rows = rank.array(expert_rows(problem, me, layout))
        received, self.window = poisoned(problem, layout), None
        if windows:
            self.received, self.window = rank.symmetric(received)
        else:
            self.received = rank.array(received)
        self.combined = rank.array(np.full((b, problem.hidden), POISON, problem.dtype))
        if layout is EM:
            self.counters = rank.array(np.full(problem.num_local_experts, -9, np.int32))
        else:
            self.counters = rank.array(np.full(problem.num_ranks, -9, np.int32))
            slots = (problem.num_ranks, problem.max_tokens, problem.num_topk)
            self.received_weights = rank.array(np.full(slots, POISON, np.float32))
            self.received_idx = rank.array(np.full(slots, -9, np.int32))

    def make_handle(self, group: ep.Group, **options: Any) -> ep.Handle:
        """A handle with this problem's routing."""
        handle = group.init_handle(self.layout, self.problem.num_topk, **options)
        self.update(handle)
        return handle

    def update(self, handle: ep.Handle, stream: Any = None) -> None:
        info = None if self.count is None else ep.LayoutInfo(num_tokens=self.count)
        handle.update(self.topk_idx, layout_info=info, stream=stream)

    def dispatch(
        self, handle: ep.Handle, stream: Any = None, *, send_only: bool = False, global_ids: bool = False
    ) -> None:
        config = ep.DispatchConfig(send_only=send_only)
        received = ep.Tensor(self.received, window=self.window)
        if self.layout is EM:
            inputs, outputs = ep.DispatchInputs(self.tokens), ep.DispatchOutputs(received)
            info = ep.LayoutInfo(expert_counters=self.counters)
        else:
            inputs = ep.DispatchInputs(self.tokens, self.topk_weights)
            outputs = ep.DispatchOutputs(received, self.received_weights, topk_idx=self.received_idx)
            kind = ep.ExpertIdKind.GLOBAL if global_ids else ep.ExpertIdKind.LOCAL
            info = ep.LayoutInfo(src_rank_counters=self.counters, recv_topk_idx_kind=kind)
        handle.dispatch(inputs, outputs, layout_info=info, config=config, stream=stream)

    def combine(
        self,
        handle: ep.Handle,
        stream: Any = None,
        *,
        send_only: bool = False,
        recipe: ep.CombineQuantizationRecipe = ep.CombineQuantizationRecipe.NONE,
    ) -> None:
        weights = self.topk_weights if self.layout is EM else None
        handle.combine(
            ep.CombineInputs(self.expert_rows),
            ep.CombineOutputs(self.combined, weights),
            config=ep.CombineConfig(send_only=send_only, quantization_recipe=recipe),
            stream=stream,
        )

    def run(self, handle: ep.Handle, stream: Any = None) -> None:
        """Dispatch and combine, one behind the other."""
        self.dispatch(handle, stream)
        self.combine(handle, stream)

    def results(self) -> dict[str, Array]:
        """Everything this rank received, once it is all there."""
        names = ["received", "combined", "counters"]
        names += [] if self.layout is EM else ["received_weights", "received_idx"]
        return {name: self.rank.read(getattr(self, name)) for name in names}


def exchange(
    rank: Any,
    problem: Problem,
    layout: ep.Layout,
    *,
    windows: bool = False,
    max_num_sms: int = 0,
    **dispatch: Any,
) -> dict[str, Array]:
    """One dispatch and combine on a rank, in a group of their own: what it received."""
    with ep.Group(rank.comm, group_config(problem, max_num_sms=max_num_sms)) as group:
        mine = Exchange(rank, problem, layout, windows=windows)
        with mine.make_handle(group) as handle:
            mine.dispatch(handle, **dispatch)
            mine.combine(handle)
            return mine.results()


def refill(rank: Any, mine: Exchange, other: Exchange) -> None:
    """Gives one exchange's buffers the contents of another's."""
    for name, memory in vars(other).items():
        if hasattr(memory, "nbytes"):
            rank.write(getattr(mine, name), rank.read(memory))


def poisoned(problem: Problem, layout: ep.Layout) -> Array:
    """What dispatch's output tokens hold before."""
    if layout is EM:
        shape = (problem.num_local_experts, problem.num_ranks * problem.max_tokens, problem.hidden)
    else:
        shape = (problem.num_ranks, problem.max_tokens, problem.hidden)
    return np.full(shape, POISON, problem.dtype)


def expert_rows(problem: Problem, rank: int, layout: ep.Layout) -> Array:
    """What a rank's experts give back: random where tokens are, NaN elsewhere."""
    random = np.random.default_rng([problem.num_topk, problem.hidden, rank])
    rows = np.full_like(poisoned(problem, layout), np.nan)
    if layout is EM:
        first = rank * problem.num_local_experts
        counts = [len(oracle.sources_of_expert(problem, first + i)) for i in range(problem.num_local_experts)]
    else:
        counts = [len(oracle.tokens_for_rank(problem, source, rank)) for source in range(problem.num_ranks)]
    for zone, count in zip(rows, counts, strict=True):
        zone[:count] = random.standard_normal((count, problem.hidden), np.float32).astype(problem.dtype)
    return rows


def expected(problem: Problem, rank: int, layout: ep.Layout, *, global_ids: bool = False) -> dict[str, Array]:
    """What ``Exchange.results`` must be on a rank after dispatch and combine."""
    rows = [expert_rows(problem, r, layout) for r in range(problem.num_ranks)]
    before = poisoned(problem, layout)
    if layout is EM:
        received, counters = oracle.dispatch_expert_major(problem, rank, before)
        combined = oracle.combine_expert_major(problem, rank, rows)
        return {"received": received, "combined": combined, "counters": counters}
    slots = (problem.num_ranks, problem.max_tokens, problem.num_topk)
    weights_before = np.full(slots, POISON, np.float32)
    found = oracle.dispatch_rank_major(problem, rank, before, weights_before, global_ids=global_ids)
    return {
        "received": found.tokens,
        "received_weights": found.topk_weights,
        "received_idx": found.topk_idx,
        "counters": found.counters,
        "combined": oracle.combine_rank_major(problem, rank, rows),
    }


def check(problem: Problem, layout: ep.Layout, results: list[dict[str, Array]], **options: Any) -> None:
    """Compares what every rank has with what it must have, to the bit."""
    for rank, found in enumerate(results):
        for name, wanted in expected(problem, rank, layout, **options).items():
            assert_same_bits(found[name], wanted, f"rank {rank}: {name}")


def assert_same_bits(found: Array, wanted: Array, what: str) -> None:
    """Fails with the first place where two arrays differ in any bit."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), what
    if found.tobytes() == wanted.tobytes():
        return
    as_bits = f"u{found.dtype.itemsize}"
    differ = np.ascontiguousarray(found).view(as_bits) != np.ascontiguousarray(wanted).view(as_bits)
    place = tuple(int(i) for i in np.argwhere(differ)[0])
    raise AssertionError(
        f"{what}{list(place)} is {found[place]!r}, expected {wanted[place]!r}; "
        f"{int(differ.sum())} of {differ.size} elements differ"
    )

# SPDX-License-Identifier: Apache-2.0
"""What the High-Throughput tests share: one rank's buffers for a problem, and the comparison.

As in :mod:`ll`, combine does not use what dispatch received: its input rows are random, and NaN wherever no
token is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import ht_oracle as oracle
import ll
import nccl_ep as ep
import numpy as np
from ll import POISON, Shape, assert_same_bits, make_problem
from oracle import Array, Problem

__all__ = ["EM", "FLAT", "Exchange", "Mode", "Shape", "check", "group_config", "make_problem"]

EM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.FLAT
ROUTINGS = ["uniform", "zipf", "one expert", "one rank", "nobody to rank 0"]
SLACK = 3  # rows of an output beyond those that are needed


@dataclass(frozen=True)
class Mode:
    """How a problem is exchanged.

    Attributes:
        budget: ``max_recv_tokens_per_rank``; 0 for eager mode.
        drop: what exceeds the budget is dropped.
        windows: outputs of dispatch and inputs of combine are in windows.
        elastic: instead, they begin on the GPU and end in the host.
        exact: the group has ``exact_combine``.
        team_size: ranks of an LSA team; 0: all of them. GPUs form smaller ones under the loopback plugin.
    """

    layout: ep.Layout
    budget: int = 0
    drop: bool = False
    alignment: int = 1
    windows: bool = False
    elastic: bool = False
    backward: bool = False
    global_ids: bool = False
    team_size: int = int(os.environ.get("NCCL_LSA_TEAM_SIZE", "0"))
    counter_dtype: type = np.int32
    exact: bool = False

    @property
    def room(self) -> int | None:
        """The oracle's: how much is kept; None: all."""
        return self.budget if self.drop else None

    def __str__(self) -> str:
        names = ["em" if self.layout is EM else "flat", f"budget{self.budget}" if self.budget else "eager"]
        names += ["drop"] if self.drop else []
        names += [f"align{self.alignment}"] if self.alignment > 1 else []
        names += ["windows"] if self.windows else []
        names += ["elastic"] if self.elastic else []
        names += ["backward"] if self.backward else []
        names += ["exact"] if self.exact else []
        return "-".join(names)


def group_config(problem: Problem, mode: Mode, **changes: Any) -> ep.GroupConfig:
    """The smallest group that fits a problem."""
    return replace(
        ll.group_config(problem),
        algorithm=ep.Algorithm.HIGH_THROUGHPUT,
        max_recv_tokens_per_rank=mode.budget,
        overflow_policy=ep.OverflowPolicy.DROP if mode.drop else ep.OverflowPolicy.AUTO,
        num_topk=problem.num_topk,
        **{"exact_combine": mode.exact, **changes},
    )


def counts(problem: Problem, rank: int, mode: Mode) -> oracle.Counts:
    """What update counts on a rank."""
    if mode.layout is EM:
        return oracle.counts_expert_major(problem, rank, mode.alignment, mode.room)
    return oracle.counts_flat(problem, rank, mode.room)


def budget_for(problem: Problem, mode: Mode) -> int:
    """The smallest budget that is allowed and sufficient."""
    return max(problem.max_tokens, *(counts(problem, rank, mode).total for rank in range(problem.num_ranks)))


def reroute(problem: Problem, routing: str, seed: int) -> None:
    """Makes the routes that exist follow a pattern."""
    random = np.random.default_rng(seed)
    local = problem.num_local_experts
    for routes in problem.topk_idx:
        exists = routes >= 0
        if routing == "zipf":
            routes[exists] = (random.zipf(1.5, int(exists.sum())) - 1) % problem.num_experts
        elif routing == "one expert":
            routes[exists] = problem.num_experts - 1
        elif routing == "one rank":
            routes[exists] = routes[exists] % local
        elif routing == "nobody to rank 0":
            routes[exists & (routes < local)] = -1


class Exchange:
    """One rank's buffers for one problem, poisoned, and the calls that use them.

    Attributes:
        count: where the number of tokens is, for ``update``; None: all.
    """

    count: Any = None

    def __init__(self, rank: Any, problem: Problem, mode: Mode) -> None:
        self.rank, self.problem, self.mode = rank, problem, mode
        me, b = rank.rank, len(problem.tokens[rank.rank])
        self.tokens = rank.array(problem.tokens[me])
        self.topk_idx = rank.array(problem.topk_idx[me])
        self.topk_weights = rank.array(problem.topk_weights[me])
        before = poisoned(problem, me, mode)
        self.received, self.window = self._rows(before.tokens)
        self.received_weights = rank.array(before.topk_weights)
        if before.topk_idx is not None:
            self.received_idx = rank.array(before.topk_idx)
        self.expert_rows, self.expert_window = self._rows(expert_rows(problem, me, mode))
        self.gradients = rank.array(gradients(problem, me, mode))
        self.combined = rank.array(np.full((b, problem.hidden), POISON, problem.dtype))
        self.combined_weights = rank.array(np.full((b, problem.num_topk), POISON, np.float32))
        num_local = problem.num_local_experts
        self.expert_counters = rank.array(np.full(num_local, -9, mode.counter_dtype))
        self.expert_offsets = rank.array(np.full(num_local, -9, mode.counter_dtype))
        self.total = rank.array(np.full(1, -9, mode.counter_dtype))

    def _rows(self, values: Array) -> tuple[Any, Any]:
        if self.mode.elastic:
            return self.rank.elastic(values, in_the_middle_of_a_row(values)), None
        if not self.mode.windows:
            return self.rank.array(values), None
        # Windows are symmetric: all ranks' are as long as the longest.
        most = max(len(poisoned(self.problem, r, self.mode).tokens) for r in range(self.problem.num_ranks))
        padded = np.full((most, *values.shape[1:]), POISON, values.dtype)
        padded[: len(values)] = values
        memory, window = self.rank.symmetric(padded)
        return memory[: len(values)], window

    def make_handle(self, group: ep.Group, **options: Any) -> ep.Handle:
        """A handle with this problem's routing."""
        handle = self.init_handle(group, **options)
        self.update(handle)
        return handle

    def init_handle(self, group: ep.Group, **options: Any) -> ep.Handle:
        """A handle for this problem, still without routing."""
        config = ep.HandleConfig(self.mode.alignment if self.mode.alignment > 1 else 0)
        return group.init_handle(self.mode.layout, self.problem.num_topk, config=config, **options)

    def update(self, handle: ep.Handle, stream: Any = None) -> None:
        counters = {"expert_counters": self.expert_counters, "recv_total_counter": self.total}
        counters["num_tokens"] = self.count
        if self.mode.layout is EM:
            counters["expert_offsets"] = self.expert_offsets
        handle.update(self.topk_idx, layout_info=ep.LayoutInfo(**counters), stream=stream)

    def dispatch(self, handle: ep.Handle, stream: Any = None) -> None:
        received = ep.Tensor(self.received, window=self.window)
        if self.mode.backward:
            inputs, outputs = ep.DispatchInputs(self.tokens), ep.DispatchOutputs(received)
        else:
            idx = None if self.mode.layout is EM else self.received_idx
            inputs = ep.DispatchInputs(self.tokens, self.topk_weights)
            outputs = ep.DispatchOutputs(received, self.received_weights, topk_idx=idx)
        kind = ep.ExpertIdKind.GLOBAL if self.mode.global_ids else ep.ExpertIdKind.LOCAL
        config = ep.DispatchConfig(pass_direction=self._direction())
        info = ep.LayoutInfo(recv_topk_idx_kind=kind)
        handle.dispatch(inputs, outputs, layout_info=info, config=config, stream=stream)

    def combine(
        self,
        handle: ep.Handle,
        stream: Any = None,
        *,
        recipe: ep.CombineQuantizationRecipe = ep.CombineQuantizationRecipe.NONE,
    ) -> None:
        rows = ep.Tensor(self.expert_rows, window=self.expert_window)
        weights, out_weights = (self.gradients, self.combined_weights) if self.mode.backward else (None, None)
        handle.combine(
            ep.CombineInputs(rows, weights),
            ep.CombineOutputs(self.combined, out_weights),
            config=ep.CombineConfig(pass_direction=self._direction(), quantization_recipe=recipe),
            stream=stream,
        )

    def run(self, handle: ep.Handle, stream: Any = None) -> None:
        """Dispatch and combine, one behind the other."""
        self.dispatch(handle, stream)
        self.combine(handle, stream)

    def _direction(self) -> ep.PassDir:
        return ep.PassDir.BWD if self.mode.backward else ep.PassDir.FWD

    def counters(self) -> dict[str, Array]:
        """What update has counted, once it is there."""
        names = ["expert_counters", "total"] + (["expert_offsets"] if self.mode.layout is EM else [])
        return {name: self.rank.read(getattr(self, name)) for name in names}

    def results(self) -> dict[str, Array]:
        """Everything this rank received, once it is all there."""
        names = ["received", "combined", "combined_weights", "received_weights"]
        names += [] if self.mode.layout is EM else ["received_idx"]
        return self.counters() | {name: self.rank.read(getattr(self, name)) for name in names}


def in_the_middle_of_a_row(values: Array) -> int:
    """How many bytes are before the middle of the middle row, or a place near it where kernels can cut."""
    row = values[0].nbytes
    return len(values) // 2 * row + row // 32 * 16


def poisoned(problem: Problem, rank: int, mode: Mode) -> oracle.Outputs:
    """What a rank's outputs of dispatch hold before."""
    num_rows = (mode.budget or counts(problem, rank, mode).total) + SLACK
    tokens = np.full((num_rows, problem.hidden), POISON, problem.dtype)
    if mode.layout is EM:
        return oracle.Outputs(tokens, np.full(num_rows, POISON, np.float32))
    table = (num_rows, problem.num_topk)
    return oracle.Outputs(tokens, np.full(table, POISON, np.float32), np.full(table, -9, np.int64))


def expert_rows(problem: Problem, rank: int, mode: Mode) -> Array:
    """What a rank's experts give back: random where tokens are, NaN elsewhere."""
    random = np.random.default_rng([problem.num_topk, problem.hidden, rank])
    rows = np.full_like(poisoned(problem, rank, mode).tokens, np.nan)
    for i in _used(problem, rank, mode):
        rows[i] = random.standard_normal(problem.hidden, np.float32).astype(problem.dtype)
    return rows


def gradients(problem: Problem, rank: int, mode: Mode) -> Array:
    """Gradients of the received weights: random, NaN where there is no row."""
    random = np.random.default_rng([problem.num_topk, rank])
    values = np.full_like(poisoned(problem, rank, mode).topk_weights, np.nan)
    for i in _used(problem, rank, mode):
        values[i] = random.random(values.shape[1:], np.float32)
    return values


def _used(problem: Problem, rank: int, mode: Mode) -> list[int]:
    if mode.layout is EM:
        return sorted(oracle.slots_of(problem, rank, mode.alignment, mode.room).values())
    return list(range(len(oracle.rows_of(problem, rank, mode.room))))


def expected_counters(problem: Problem, rank: int, mode: Mode) -> dict[str, Array]:
    """What ``Exchange.counters`` must be on a rank."""
    found = counts(problem, rank, mode)
    wanted = {
        "expert_counters": np.array(found.experts, mode.counter_dtype),
        "total": np.array([found.total], mode.counter_dtype),
    }
    if mode.layout is EM:
        wanted["expert_offsets"] = np.array(found.offsets, mode.counter_dtype)
    return wanted


def combine_expert_major(problem: Problem, rank: int, mode: Mode, rows: list[Array]) -> Array:
    """What a rank's tokens sum up to, from every rank's slots."""
    if mode.exact:
        return oracle.combine_exact(problem, rank, rows, mode.alignment, mode.room)
    return oracle.combine_expert_major(problem, rank, rows, mode.alignment, mode.room, mode.team_size)


def expected(problem: Problem, rank: int, mode: Mode) -> dict[str, Array]:
    """What ``Exchange.results`` must be on a rank after dispatch and combine."""
    ranks = range(problem.num_ranks)
    before = poisoned(problem, rank, mode)
    rows = [expert_rows(problem, r, mode) for r in ranks]
    weights = [gradients(problem, r, mode) for r in ranks]
    if mode.layout is EM:
        out = oracle.dispatch_expert_major(problem, rank, before, mode.alignment, mode.room)
        combined = combine_expert_major(problem, rank, mode, rows)
        combined_weights = oracle.combine_weights_expert_major(
            problem, rank, weights, mode.alignment, mode.room
        )
    else:
        out = oracle.dispatch_flat(problem, rank, before, mode.room, global_ids=mode.global_ids)
        combined = oracle.combine_flat(problem, rank, rows, mode.room, mode.team_size)
        combined_weights = oracle.combine_weights_flat(problem, rank, weights, mode.room)
    untouched = np.full_like(combined_weights, POISON)
    wanted = expected_counters(problem, rank, mode)
    wanted["received"] = out.tokens
    wanted["received_weights"] = before.topk_weights if mode.backward else out.topk_weights
    wanted["combined"] = combined
    wanted["combined_weights"] = combined_weights if mode.backward else untouched
    if before.topk_idx is not None and out.topk_idx is not None:
        wanted["received_idx"] = before.topk_idx if mode.backward else out.topk_idx
    return wanted


def check(problem: Problem, mode: Mode, results: list[dict[str, Array]]) -> None:
    """Compares what every rank has with what it must have, to the bit."""
    for rank, found in enumerate(results):
        for name, wanted in expected(problem, rank, mode).items():
            assert_same_bits(found[name], wanted, f"rank {rank}: {name}")


def check_counters(problem: Problem, mode: Mode, results: list[dict[str, Array]]) -> None:
    """The same for what update counts."""
    for rank, found in enumerate(results):
        for name, wanted in expected_counters(problem, rank, mode).items():
            assert_same_bits(found[name], wanted, f"rank {rank}: {name}")

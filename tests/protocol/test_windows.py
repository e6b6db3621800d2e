# SPDX-License-Identifier: Apache-2.0
"""What a call does with windows: what the contract says, what ncclEpQueryCapabilities says, and what happens.

To see which way rows take, a tensor's descriptor says two things at once: its data is in one place, and its
window in another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ht
import ht_recipes
import ll
import ll_recipes
import nccl_ep as ep
import numpy as np
import pytest
from ll import Shape, assert_same_bits, make_problem
from nccl_ep import DataType
from oracle import Array, Problem

HT, LL = ep.Algorithm.HIGH_THROUGHPUT, ep.Algorithm.LOW_LATENCY
EM, RM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR, ep.Layout.FLAT
AUTO, OFF, ON = ep.ZeroCopyMode.AUTO, ep.ZeroCopyMode.OFF, ep.ZeroCopyMode.ON
REFUSED, IN_PLACE = ep.RowPath.REFUSED, ep.RowPath.IN_PLACE
STAGED, DIRECT = ep.RowPath.STAGED, ep.RowPath.DIRECT
DISPATCH, COMBINE = ep.Operation.DISPATCH, ep.Operation.COMBINE

# Of outputs.tokens of dispatch and inputs.tokens of combine, each without a window and with one.
CONTRACT: dict[tuple[ep.Algorithm, ep.Layout, ep.ZeroCopyMode], dict[ep.Operation, Any]] = {
    (LL, EM, AUTO): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (LL, EM, OFF): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (LL, EM, ON): {DISPATCH: (REFUSED, REFUSED), COMBINE: (IN_PLACE, IN_PLACE)},
    (LL, RM, AUTO): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (LL, RM, OFF): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (LL, RM, ON): {DISPATCH: (REFUSED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (HT, FLAT, AUTO): {DISPATCH: (STAGED, DIRECT), COMBINE: (IN_PLACE, IN_PLACE)},
    (HT, FLAT, OFF): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (HT, FLAT, ON): {DISPATCH: (REFUSED, DIRECT), COMBINE: (REFUSED, IN_PLACE)},
    (HT, EM, AUTO): {DISPATCH: (STAGED, DIRECT), COMBINE: (IN_PLACE, IN_PLACE)},
    (HT, EM, OFF): {DISPATCH: (STAGED, STAGED), COMBINE: (IN_PLACE, IN_PLACE)},
    (HT, EM, ON): {DISPATCH: (REFUSED, DIRECT), COMBINE: (REFUSED, IN_PLACE)},
}

# Of outputs.tokens and outputs.scales of a dispatch that forwards scales, for each of WINDOWS.
CONTRACT_WITH_SCALES = {
    (LL, RM, ON): (REFUSED, STAGED, STAGED, STAGED),
    (HT, FLAT, AUTO): (STAGED, REFUSED, REFUSED, DIRECT),
    (HT, FLAT, OFF): (STAGED, REFUSED, REFUSED, STAGED),
    (HT, EM, ON): (REFUSED, REFUSED, REFUSED, DIRECT),
}
WINDOWS = [(), ("received",), ("received_scales",), ("received", "received_scales")]

SHAPE = Shape(num_topk=2, max_tokens=8, tokens=(8, 5), no_route=0.1)
ROWS = ht_recipes.Rows(256, 2)
FORWARDED = ll_recipes.Forwarded(DataType.FLOAT8E4M3, 256, DataType.FLOAT32, 2)


@dataclass(frozen=True)
class Elsewhere:
    """A window that claims to begin where a tensor does, and holds other memory."""

    handle: int
    user_ptr: int


@dataclass
class Seen:
    """What a call did: the message of its refusal, or what is in the window's memory and in the results."""

    refusal: str = ""
    in_window: Array | None = None
    results: dict[str, Array] | None = None


def elsewhere(rank: Any, memory: Any) -> tuple[Any, Elsewhere]:
    """Other memory, as large, and a window over it that claims to begin where ``memory`` does."""
    other, window = rank.symmetric(np.full(memory.shape, ll.POISON, memory.dtype))
    return other, Elsewhere(window.handle, ep.Tensor(memory).ptr)


class Desk:
    """One rank's buffers, each big tensor with memory of its own and a window over other memory."""

    def __init__(self, rank: Any, problem: Problem, algorithm: ep.Algorithm, layout: ep.Layout) -> None:
        self.rank, self.problem = rank, problem
        self.is_ht = algorithm == HT
        exchange = (
            ht.Exchange(rank, problem, ht.Mode(layout, budget=64))
            if self.is_ht
            else ll.Exchange(rank, problem, layout)
        )
        self.exchange: Any = exchange
        self.received, self.rows = exchange.received, exchange.expert_rows
        self.out_memory, self.out_window = elsewhere(rank, self.received)
        self.in_memory, self.in_window = elsewhere(rank, self.rows)

    def call(self, handle: ep.Handle, operation: ep.Operation, in_window: bool) -> Seen:
        """Makes the call as an exchange does, with or without the window."""
        act, memory = (
            (self._dispatch, self.out_memory) if operation == DISPATCH else (self._combine, self.in_memory)
        )
        try:
            act(handle, in_window)
        except ep.Error as refusal:
            return Seen(refusal=str(refusal))
        return Seen(in_window=self.rank.read(memory), results=self.exchange.results())

    def _dispatch(self, handle: ep.Handle, in_window: bool) -> None:
        for memory, window in ((self.received, None), (self.out_memory, self.out_window)):
            self.rank.write(memory, np.full(memory.shape, ll.POISON, memory.dtype))
            self.exchange.window = window if in_window else None
        self.exchange.dispatch(handle)

    def _combine(self, handle: ep.Handle, in_window: bool) -> None:
        window = self.in_window if in_window else None
        if self.is_ht:
            self.exchange.expert_window = window
        else:
            self.exchange.expert_rows = ep.Tensor(self.rows, window=window)
        self.exchange.combine(handle)


def config_of(problem: Problem, algorithm: ep.Algorithm, mode: ep.ZeroCopyMode) -> ep.GroupConfig:
    if algorithm == HT:
        return ht.group_config(problem, ht.Mode(FLAT, budget=64), zero_copy=mode)
    return ll.group_config(problem, zero_copy=mode)


@pytest.mark.parametrize(
    ("algorithm", "layout", "mode"), CONTRACT, ids=lambda part: part.name.lower().replace("_", "-")
)
def test_what_is_said_is_what_happens(
    make_cluster: Any, algorithm: ep.Algorithm, layout: ep.Layout, mode: ep.ZeroCopyMode, seed: int
) -> None:
    problem = make_problem(SHAPE, seed)
    cases = [(window, operation) for window in (True, False) for operation in (DISPATCH, COMBINE)]

    def main(rank: Any) -> list[tuple[ep.Capabilities, Seen | None]]:
        with ep.Group(rank.comm, config_of(problem, algorithm, mode)) as group:
            desk = Desk(rank, problem, algorithm, layout)
            handle, done, found = desk.exchange.make_handle(group), False, []
            for window, operation in cases:
                query = ep.CapabilityQuery(
                    operation, datatype=problem.dtype, hidden=problem.hidden, tokens_in_window=window
                )
                said = group.capabilities(layout, query)
                done = done or (operation == DISPATCH and said.result == 0)
                seen = desk.call(handle, operation, window) if operation == DISPATCH or done else None
                found.append((said, seen))
            return found

    results = make_cluster(2, seed).run(main)
    for i, (window, operation) in enumerate(cases):
        wanted = CONTRACT[algorithm, layout, mode][operation][window]
        for rank, found in enumerate(results):
            said, seen = found[i]
            path = said.outputs_tokens if operation == DISPATCH else said.inputs_tokens
            assert path.path == wanted, path.reason
            if seen is not None:
                check_seen(problem, algorithm, layout, operation, rank, said, wanted, seen)


def check_seen(
    problem: Problem,
    algorithm: ep.Algorithm,
    layout: ep.Layout,
    operation: ep.Operation,
    rank: int,
    said: ep.Capabilities,
    path: ep.RowPath,
    seen: Seen,
) -> None:
    """Whether a call did what was said."""
    if path == REFUSED:
        assert said.result != 0
        call = f"ncclEp{operation.name.capitalize()}"
        assert seen.refusal.startswith(f"{call}: {said.outputs_tokens.reason} (")
        assert seen.refusal.endswith(f", {said.result})")
        return
    assert not seen.refusal
    assert seen.in_window is not None
    assert seen.results is not None
    untouched = np.full_like(seen.in_window, ll.POISON)
    if path == DIRECT:
        assert (seen.in_window != untouched).any()
        return
    assert_same_bits(seen.in_window, untouched, "memory of a window that rows have no business in")
    name = "received" if operation == DISPATCH else "combined"
    mode = ht.Mode(layout, budget=64)
    wanted = ht.expected(problem, rank, mode) if algorithm == HT else ll.expected(problem, rank, layout)
    assert_same_bits(seen.results[name], wanted[name], f"rank {rank}: {name}")


@dataclass
class SeenWithScales:
    """The same of a dispatch with scales: which windows' memory it has written."""

    refusal: str = ""
    written: tuple[str, ...] = ()
    results: dict[str, Array] | None = None


class DeskWithScales:
    """One rank's buffers for a dispatch that forwards scales; those of its outputs as a desk's."""

    ATTRIBUTES: ClassVar = {"received": "window", "received_scales": "scales_window"}

    def __init__(self, rank: Any, sent: ll_recipes.Sent, algorithm: ep.Algorithm, layout: ep.Layout) -> None:
        self.rank = rank
        self.exchange: Any = (
            ht_recipes.ScaledExchange(rank, sent.problem, ht.Mode(layout, budget=64), ROWS)
            if algorithm == HT
            else ll_recipes.RecipeExchange(rank, sent, layout)
        )
        self.outputs = {name: getattr(self.exchange, name) for name in self.ATTRIBUTES}
        self.poison = {name: rank.read(memory) for name, memory in self.outputs.items()}
        self.others = {name: elsewhere(rank, memory) for name, memory in self.outputs.items()}

    def call(self, handle: ep.Handle, in_window: tuple[str, ...], *, and_combine: bool) -> SeenWithScales:
        """Dispatches with these outputs in windows."""
        for name, (other, window) in self.others.items():
            self.rank.write(self.outputs[name], self.poison[name])
            self.rank.write(other, self.poison[name])
            setattr(self.exchange, self.ATTRIBUTES[name], window if name in in_window else None)
        try:
            self.exchange.dispatch(handle)
        except ep.Error as refusal:
            return SeenWithScales(refusal=str(refusal))
        if and_combine:
            self.exchange.combine(handle)
        after = {name: self.rank.read(other) for name, (other, _) in self.others.items()}
        written = [name for name, values in after.items() if values.tobytes() != self.poison[name].tobytes()]
        return SeenWithScales(written=tuple(written), results=self.exchange.results())


@pytest.mark.parametrize(
    ("algorithm", "layout", "mode"),
    CONTRACT_WITH_SCALES,
    ids=lambda part: part.name.lower().replace("_", "-"),
)
def test_what_is_said_of_scales_is_what_happens(
    make_cluster: Any, algorithm: ep.Algorithm, layout: ep.Layout, mode: ep.ZeroCopyMode, seed: int
) -> None:
    sent = ll_recipes.make_sent(FORWARDED, SHAPE, seed)
    ht_mode = ht.Mode(layout, budget=64)
    config = (
        ht_recipes.config_for(sent.problem, ht_mode, [ROWS], zero_copy=mode)
        if algorithm == HT
        else sent.group_config(zero_copy=mode)
    )

    def main(rank: Any) -> list[tuple[ep.Capabilities, SeenWithScales]]:
        with ep.Group(rank.comm, config) as group:
            desk = DeskWithScales(rank, sent, algorithm, layout)
            handle, found = desk.exchange.make_handle(group), []
            for windows in WINDOWS:
                said = group.capabilities(layout, query_with_scales(windows))
                is_staged = said.outputs_tokens.path == STAGED
                found.append((said, desk.call(handle, windows, and_combine=is_staged)))
            return found

    found = make_cluster(2, seed).run(main)
    for i, path in enumerate(CONTRACT_WITH_SCALES[algorithm, layout, mode]):
        for rank_found in found:
            check_seen_with_scales(path, *rank_found[i])
        if path == STAGED:
            results = [rank_found[i][1].results for rank_found in found]
            if algorithm == HT:
                ht_recipes.check(sent.problem, ht_mode, ROWS, results)
            else:
                ll_recipes.check_recipe(sent, layout, results)


def query_with_scales(windows: tuple[str, ...]) -> ep.CapabilityQuery:
    return ep.CapabilityQuery(
        DISPATCH,
        quantization_recipe=ep.DispatchQuantizationRecipe.FWD,
        datatype=ROWS.dtype,
        hidden=ROWS.hidden,
        scales_datatype=ROWS.scale_dtype,
        num_scales=ROWS.num_scales,
        tokens_in_window="received" in windows,
        scales_in_window="received_scales" in windows,
    )


def check_seen_with_scales(path: ep.RowPath, said: ep.Capabilities, seen: SeenWithScales) -> None:
    """Whether a dispatch did what was said, and that was right."""
    assert said.outputs_tokens.path == said.outputs_scales.path == path, said
    if path == REFUSED:
        assert seen.refusal.startswith(f"ncclEpDispatch: {said.outputs_scales.reason} (")
        return
    assert not seen.refusal
    assert said.inputs_tokens.path == said.inputs_scales.path == IN_PLACE
    assert seen.written == (WINDOWS[-1] if path == DIRECT else ())

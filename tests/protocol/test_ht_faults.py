# SPDX-License-Identifier: Apache-2.0
"""A rank that is late changes nothing; one that is silent, or does not send what others wait for, ends in an
error that names it, never in a hang.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from both import check_that_the_silent_are_named, fault
from ht import EM, FLAT, Exchange, Mode, Shape, group_config, make_problem
from ht_runs import check_with_a_late_rank

pytestmark = pytest.mark.sim_only
MODES = pytest.mark.parametrize(
    "mode", [Mode(FLAT, budget=64), Mode(FLAT, budget=64, windows=True), Mode(EM, budget=64)], ids=str
)


def a_group(
    mode: Mode, seed: int, num_ranks: int = 4, **config: Any
) -> tuple[ep.GroupConfig, Callable[[Any], Exchange]]:
    """Ranks with tokens for each other, whose waits end soon, and what makes a rank's buffers."""
    shape = Shape(num_ranks=num_ranks, max_tokens=10, tokens=(10,) * num_ranks, no_route=0)
    problem = make_problem(shape, seed)
    in_group = group_config(problem, mode, timeout_ns=1_000_000, **config)
    return in_group, partial(Exchange, problem=problem, mode=mode)


@MODES
def test_a_late_rank_changes_nothing(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_ranks=4), seed)
    check_with_a_late_rank(make_cluster(4, seed), problem, mode, late=seed % 4, num_steps=3)


@MODES
@pytest.mark.parametrize("silent", [{1}, {0, 2}, {1, 2, 3}], ids=str)
@pytest.mark.parametrize("call", ["update", "dispatch", "combine", "update, dispatch, combine"])
@pytest.mark.parametrize(("num_ranks", "max_num_sms"), [(4, 0), (8, 1)])
def test_silent_ranks_are_a_timeout_that_names_one(
    make_cluster: Any, mode: Mode, call: str, silent: set[int], num_ranks: int, max_num_sms: int, seed: int
) -> None:
    """On one SM the few warps wait for the silent ones instead of serving the others."""
    calls_before = ["dispatch"] if call == "combine" else []
    config, exchange = a_group(mode, seed, num_ranks, max_num_sms=max_num_sms)
    check_that_the_silent_are_named(
        make_cluster(num_ranks, seed), config, exchange, silent, calls_before, call.split(", ")
    )


@dataclass(frozen=True)
class Stray:
    """A rank calls something else than the others: it takes part, and does not send what they wait for.

    Attributes:
        call, mode: the others'.
        stray_call, stray_mode: its own.
        says: what the others wait for.
        template: where they do, if all of them wait for the same.
    """

    call: str
    mode: Mode
    stray_call: str
    stray_mode: Mode
    says: tuple[str, ...]
    template: str | None = None

    def __str__(self) -> str:
        return f"{self.mode}-{self.call}-{self.stray_mode}-{self.stray_call}"

    def act(self, mine: Exchange, group: ep.Group, handle: ep.Handle) -> None:
        """What the strange rank does, with a handle like the others' or, to update it, one of its own."""
        mine.mode = self.stray_mode
        if self.stray_call == "update":
            handle = mine.init_handle(group)
        getattr(mine, self.stray_call)(handle)


FLAT_ROWS, FLAT_BACKWARD = Mode(FLAT, budget=64), Mode(FLAT, budget=64, backward=True)
DIRECT = Mode(FLAT, budget=64, windows=True, backward=True)
EM_ROWS, EM_BACKWARD = Mode(EM, budget=64), Mode(EM, budget=64, backward=True)
ROWS = ("a dispatched row", "the last rows")  # different warps wait for them
STRAYS = [
    Stray("update", FLAT_ROWS, "dispatch", FLAT_ROWS, ("the counts of tokens",), "ht/rank_counts.cuh"),
    # With such an alignment it finds that there is not enough room, and sends no records.
    Stray(
        "update", EM_ROWS, "update", replace(EM_ROWS, alignment=64), ("the record of a row",), "ht/place.cuh"
    ),
    Stray("dispatch", FLAT_ROWS, "dispatch", FLAT_BACKWARD, ("the weights of a row",), "ht/deliver.cuh"),
    Stray("dispatch", FLAT_BACKWARD, "update", FLAT_ROWS, ROWS),
    Stray("dispatch", EM_BACKWARD, "update", EM_ROWS, ROWS),
    Stray("dispatch", DIRECT, "update", DIRECT, ("the last rows",), "ht/tickets.cuh"),
    Stray("combine", FLAT_ROWS, "update", FLAT_ROWS, ("a combined row",), "ht/combine.cuh"),
    Stray("combine", EM_ROWS, "update", EM_ROWS, ("a combined row",)),
    Stray("combine", FLAT_BACKWARD, "combine", FLAT_ROWS, ("the weights of a row",), "ht/gradients.cuh"),
]


@pytest.mark.parametrize("stray", STRAYS, ids=str)
@pytest.mark.parametrize("strays", [{1}, {0, 2}], ids=str)
@pytest.mark.parametrize("max_num_sms", [1, 0])
def test_a_rank_that_takes_part_but_does_not_send_is_named(
    make_cluster: Any, stray: Stray, strays: set[int], max_num_sms: int, seed: int
) -> None:
    config, exchange = a_group(stray.mode, seed, max_num_sms=max_num_sms)

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, config) as group:
            mine = exchange(rank)
            handle = mine.make_handle(group)
            mine.dispatch(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank in strays:
                stray.act(mine, group, handle)
                return ""
            getattr(mine, stray.call)(handle)
            return fault(rank, group, partial(mine.dispatch, handle))

    for rank, said in enumerate(make_cluster(4, seed).run(main)):
        if rank not in strays:
            assert f"rank {rank} waited" in said
            assert any(f"for {what} from rank" in said for what in stray.says), said
            assert any(f"from rank {other} (" in said for other in strays), f"strays are {strays}: {said}"

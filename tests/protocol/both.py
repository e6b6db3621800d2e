# SPDX-License-Identifier: Apache-2.0
"""Bodies of tests that both algorithms have.

``config`` is the group's and ``make_exchange(rank)`` makes a rank's buffers, of :mod:`ll` or of :mod:`ht`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from hypothesis import strategies as st
from ll import BF16, FP16, FP32, Shape

MakeExchange = Callable[[Any], Any]

# One LSA team, and two that the network joins.
NODES = pytest.mark.parametrize(
    "nodes", [1, pytest.param(2, marks=pytest.mark.sim_only)], ids=["one-team", "two-teams"]
)


@st.composite
def shapes(draw: Any, max_tokens: Any, most_topk: int) -> Shape:
    """Any shape. ``max_tokens`` draws the most tokens of a rank."""
    num_ranks = draw(st.integers(1, 5))
    local_experts = draw(st.integers(1, 9))
    most_tokens = draw(max_tokens)
    dtype = draw(st.sampled_from([BF16, FP16, FP32]))
    return Shape(
        num_ranks=num_ranks,
        num_local_experts=local_experts,
        num_topk=draw(st.integers(1, min(most_topk, num_ranks * local_experts))),
        hidden=draw(st.integers(1, 40)) * 16 // dtype.itemsize,
        max_tokens=most_tokens,
        tokens=tuple(draw(st.lists(st.integers(0, most_tokens), min_size=num_ranks, max_size=num_ranks))),
        dtype=dtype,
        idx_dtype=draw(st.sampled_from([np.int32, np.int64])),
        no_route=draw(st.sampled_from([0.0, 0.2, 0.9, 1.0])),
        repeats=draw(st.booleans()),
    )


def check_that_the_silent_are_named(
    cluster: Any,
    config: ep.GroupConfig,
    make_exchange: MakeExchange,
    silent: set[int],
    calls_before: list[str],
    calls: list[str],
    fall_silent: Callable[[int], None] | None = None,
) -> None:
    """Ranks fall silent after some calls. All others' next ones time out and name one of them, or a rank that
    kept them waiting because it waited itself.

    ``fall_silent(rank)`` is how; by default its GPU alone stops.
    """

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, config) as group:
            mine = make_exchange(rank)
            handle = mine.make_handle(group)
            for name in calls_before:
                getattr(mine, name)(handle)
            rank.synchronize()
            rank.barrier()
            if rank.rank in silent:
                (fall_silent or cluster.sim.silence)(rank.rank)
                return ""
            for name in calls:
                getattr(mine, name)(handle)
            return fault(rank, group, partial(mine.dispatch, handle))

    check_accusations(cluster.run(main), silent)


def check_accusations(said: list[str], missing: set[int]) -> None:
    """Each other rank names a missing one, or a rank that kept it waiting because it waited itself."""
    for rank in set(range(len(said))) - missing:
        accused, chain = rank, [said[rank]]
        while accused not in missing and len(chain) <= len(said):
            assert f"rank {accused} waited" in said[accused]
            found = re.search(r"from rank (\d+) \(", said[accused])
            assert found, said[accused]
            accused = int(found[1])
            chain.append(said[accused])
        assert accused in missing, f"missing are {missing}: {chain}"


def fault(rank: Any, group: ep.Group, call: Callable[[], None]) -> str:
    """What the group says when the rank's calls have timed out and another one is made."""
    rank.synchronize()
    reported = group.async_error()
    assert reported is not None
    with pytest.raises(ep.RemoteError) as failure:
        call()
    assert str(failure.value).endswith(str(reported).partition(": ")[2])  # behind the call's name
    return str(failure.value)


def check_that_nothing_is_left_behind(
    cluster: Any, config: ep.GroupConfig, make_exchange: MakeExchange
) -> None:
    """What groups and handles have allocated is given back."""

    def main(rank: Any) -> tuple[dict[str, int], dict[str, int]]:
        mine = make_exchange(rank)
        before = cluster.sim.usage(rank.rank)
        for _ in range(2):
            with ep.Group(rank.comm, config) as group:
                handle = mine.make_handle(group)
                mine.run(handle)
                mine.results()
        rank.barrier()
        return before, cluster.sim.usage(rank.rank)

    for before, after in cluster.run(main):
        assert before == after

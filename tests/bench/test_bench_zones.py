# SPDX-License-Identifier: Apache-2.0
"""Where rows lie, and what counters say."""

from __future__ import annotations

from typing import Any

import ht_oracle
import numpy as np
import pytest
from bench_cases import case
from oracle import Problem

from ep_bench.exits import UsageError
from ep_bench.inputs import Inputs
from ep_bench.zones import most_rows

# Experts 0 and 1 are rank 0's, 2 and 3 rank 1's. Tokens 0 and 1 are rank 0's, 2 rank 1's.
TABLES = [np.array([[0, 3], [2, 0]]), np.array([[0, 1]])]


@pytest.fixture
def make(tmp_path: Any) -> Any:
    np.savez(tmp_path / "routes.npz", **{f"topk_idx_{rank}": table for rank, table in enumerate(TABLES)})
    usual = {"routing": str(tmp_path / "routes.npz"), "num_ranks": 2, "experts": 4, "top_k": 2, "tokens": 2}
    return lambda **changes: Inputs(case(**usual, **changes))


def places(inputs: Inputs, rank: int) -> list[tuple[int, list[int], int]]:
    return [(zone.first, zone.tokens.tolist(), zone.padding) for zone in inputs.zones.of_rank(rank)]


def counters(inputs: Inputs, rank: int) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in inputs.zones.counters(rank).items()}


def test_low_latency_zones_have_a_fixed_size(make: Any) -> None:
    expert_major = make(layout="em")
    assert places(expert_major, 0) == [(0, [0, 1, 2], 0), (4, [2], 0)]
    assert places(expert_major, 1) == [(0, [1], 0), (4, [0], 0)]
    assert counters(expert_major, 0) == {"expert_counters": [3, 1]}
    rank_major = make(layout="rm")
    assert places(rank_major, 1) == [(0, [0, 1], 0), (2, [], 0)]
    assert counters(rank_major, 1) == {"src_rank_counters": [2, 0]}
    assert [zone.has_spare for zone in rank_major.zones.of_rank(1)] == [False, True]


def test_flat_rows_are_one_for_each_token(make: Any) -> None:
    flat = make(algorithm="ht", layout="fl")
    assert places(flat, 0) == [(0, [0, 1, 2], 0)]
    assert places(flat, 1) == [(0, [0, 1], 0)]
    assert counters(flat, 0) == {"expert_counters": [3, 1], "recv_total_counter": [3]}
    assert (flat.zones.budget, flat.zones.num_rows) == (3, 4)


def test_expert_major_zones_are_aligned(make: Any) -> None:
    expert_major = make(algorithm="ht", layout="em", alignment=4)
    assert places(expert_major, 0) == [(0, [0, 1, 2], 1), (4, [2], 3)]
    wanted = {"expert_counters": [4, 4], "expert_offsets": [0, 4], "recv_total_counter": [8]}
    assert counters(expert_major, 0) == wanted
    assert expert_major.zones.budget == 8
    assert [zone.has_spare for zone in expert_major.zones.of_rank(0)] == [False, True]


def test_a_budget_may_be_larger_but_not_smaller_than_what_arrives(make: Any) -> None:
    assert make(algorithm="ht", layout="fl", budget=7).zones.budget == 7
    with pytest.raises(UsageError, match="--budget 2: rank 0 receives 3 rows, expected at least as many, or"):
        make(algorithm="ht", layout="fl", budget=2)


def test_flat_rows_are_thinned_out(make: Any) -> None:
    flat = make(algorithm="ht", layout="fl", budget=2, overflow="drop")
    assert places(flat, 0) == [(0, [1, 2], 0)]
    assert counters(flat, 0) == {"expert_counters": [2, 1], "recv_total_counter": [3]}
    assert counters(flat, 1) == {"expert_counters": [1, 1], "recv_total_counter": [2]}
    assert flat.zones.num_dropped == 1
    assert make(algorithm="ht", layout="fl", budget=3, overflow="drop").zones.num_dropped == 0


def test_experts_share_the_room_in_whole_alignments(make: Any) -> None:
    thinned = make(algorithm="ht", layout="em", alignment=2, budget=5, overflow="drop")
    assert places(thinned, 0) == [(0, [1, 2], 0), (2, [2], 1)]  # they want 2 blocks and 1
    wanted = {"expert_counters": [2, 2], "expert_offsets": [0, 2], "recv_total_counter": [6]}
    assert counters(thinned, 0) == wanted
    assert thinned.zones.num_dropped == 1


@pytest.mark.parametrize("routing", ["uniform", "zipf:2", "hot:3"])
@pytest.mark.parametrize("layout", ["fl", "em"])
@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("budget", [40, 47, 64])
def test_what_is_kept_is_what_the_oracle_keeps(
    layout: str, routing: str, alignment: int, budget: int, seed: int
) -> None:
    changes = {"algorithm": "ht", "layout": layout, "routing": routing, "alignment": alignment}
    inputs = Inputs(case(**changes, tokens=40, budget=budget, overflow="drop", seed=seed))
    tables = [routing.topk_idx for routing in inputs.routing]
    rows = [np.zeros((len(table), 1)) for table in tables]
    problem = Problem(8, 40, rows, tables, [routing.topk_weights for routing in inputs.routing])
    for rank in range(4):
        if layout == "fl":
            kept = [[(row.source, row.token) for row in ht_oracle.rows_of(problem, rank, budget)]]
            begins, counts = [0], ht_oracle.counts_flat(problem, rank, budget)
        else:
            zones = ht_oracle.zones_of(problem, rank, alignment, budget)
            kept, begins = [zone.tokens for zone in zones], [zone.begin for zone in zones]
            counts = ht_oracle.counts_expert_major(problem, rank, alignment, budget)
        found = places(inputs, rank)
        assert [first for first, _, _ in found] == begins
        assert [[divmod(token, 40) for token in tokens] for _, tokens, _ in found] == kept
        wanted = {"expert_counters": counts.experts, "recv_total_counter": [counts.total]}
        assert counters(inputs, rank) == wanted | ({"expert_offsets": begins} if layout == "em" else {})


@pytest.mark.parametrize("layout", ["fl", "em"])
@pytest.mark.parametrize("routing", ["uniform", "zipf:2"])
def test_there_are_never_more_rows_than_memory_is_made_for(layout: str, routing: str) -> None:
    inputs = Inputs(case(algorithm="ht", layout=layout, routing=routing, alignment=8, tokens=50))
    assert inputs.zones.num_rows <= most_rows(inputs.case)

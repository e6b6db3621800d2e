# SPDX-License-Identifier: Apache-2.0
"""Bytes by the routing, and the numbers that rows hold."""

from __future__ import annotations

import numpy as np
import pytest
from bench_cases import case

from ep_bench.inputs import Inputs
from ep_bench.recipes import recipe_of
from ep_bench.tokens import Rows
from ep_bench.traffic import ROUTE_BYTES, computed_remote_bytes, ideal_remote_bytes


def inputs_from(tmp_path, tables, **changes):
    np.savez(tmp_path / "routes.npz", **{f"topk_idx_{rank}": table for rank, table in enumerate(tables)})
    usual = {"num_ranks": 2, "experts": 4, "top_k": 2, "tokens": 2}
    return Inputs(case(routing=str(tmp_path / "routes.npz"), **{**usual, **changes}))


def test_ideal_is_one_row_for_each_token_and_remote_rank(tmp_path):
    # Experts 0 and 1 are rank 0's, 2 and 3 rank 1's.
    tables = [np.array([[0, 1], [2, 3]]), np.array([[0, 2], [-1, -1]])]
    inputs = inputs_from(tmp_path, tables, hidden=32)
    # Rank 0 sends its second token once, though both experts are there; rank 1 its first. 64 bytes a row.
    assert ideal_remote_bytes(inputs, "dispatch") == 64
    assert computed_remote_bytes(inputs, "dispatch") == 64 + 1.5 * ROUTE_BYTES


# Experts are their ranks' numbers. Team 0 is ranks 0 and 1, team 1 ranks 2 and 3; rank 0 hosts rank 2's
# tokens in team 0, and so on.
TEAM_TABLES = [
    np.array([[2, 3], [0, 1]]),  # to host 2, and from there to 3; to 1
    np.array([[2, -1], [3, -1]]),  # to host 3, and from there to 2; to host 3, who wants it
    np.array([[0, 1], [-1, -1]]),  # to host 0, and from there to 1
    np.array([[3, -1], [0, 2]]),  # nowhere; to host 1, and from there to 0; to 2
]
BETWEEN_TEAMS, INSIDE_TEAMS = 5, 6


def test_exact_sums_have_a_row_for_each_route_which_comes_home_by_way_of_the_host(tmp_path):
    shape = {"num_ranks": 4, "hidden": 32, "layout": "em", "recipe": recipe_of("exact")}
    by_host = inputs_from(tmp_path, TEAM_TABLES, algorithm="ht", num_teams=2, **shape)
    assert ideal_remote_bytes(by_host, "combine") == 13 * 64 / 4
    for algorithm, teams in (("ht", 1), ("ll", 1), ("ll", 2)):
        straight = inputs_from(tmp_path, TEAM_TABLES, algorithm=algorithm, num_teams=teams, **shape)
        assert ideal_remote_bytes(straight, "combine") == 9 * 64 / 4


def test_high_throughput_crosses_once_for_each_team_and_is_passed_on_there(tmp_path):
    shape = {"num_ranks": 4, "hidden": 32}
    across = inputs_from(tmp_path, TEAM_TABLES, algorithm="ht", layout="fl", num_teams=2, **shape)
    assert ideal_remote_bytes(across, "dispatch") == (BETWEEN_TEAMS + INSIDE_TEAMS) * 64 / 4
    num_remote_routes = 9
    assert (
        computed_remote_bytes(across, "dispatch")
        == ideal_remote_bytes(across, "dispatch") + num_remote_routes * ROUTE_BYTES / 4
    )
    for algorithm, layout, teams in (("ht", "fl", 1), ("ll", "em", 1), ("ll", "em", 2)):
        kind = {"algorithm": algorithm, "layout": layout, "num_teams": teams}
        direct = inputs_from(tmp_path, TEAM_TABLES, **kind, **shape)
        assert ideal_remote_bytes(direct, "dispatch") == num_remote_routes * 64 / 4
    alone = inputs_from(tmp_path, TEAM_TABLES, algorithm="ht", layout="fl", num_teams=4, **shape)
    assert (
        ideal_remote_bytes(alone, "dispatch") == num_remote_routes * 64 / 4
    )  # a rail for each rank, nothing inside


def test_a_row_that_is_dropped_need_not_cross(tmp_path):
    tables = [np.array([[1, -1], [1, -1]]), np.array([[1, -1], [1, -1]]), *TEAM_TABLES[2:]]
    few = {"algorithm": "ht", "layout": "fl", "num_teams": 2, "num_ranks": 4, "budget": 2, "overflow": "drop"}
    everything = inputs_from(tmp_path, tables, **{**few, "budget": 8})
    thinned = inputs_from(tmp_path, tables, **few)
    assert thinned.zones.num_dropped == 3  # rank 1 wants 5 rows
    assert ideal_remote_bytes(thinned, "dispatch") < ideal_remote_bytes(everything, "dispatch")


def test_uniform_top_8_of_256_reaches_the_expected_number_of_remote_ranks():
    inputs = Inputs(case(tokens=2000, top_k=8, experts=256, hidden=16))
    per_token = ideal_remote_bytes(inputs, "dispatch") / (2000 * inputs.case.row_bytes)
    assert per_token == pytest.approx(2.71, abs=0.03)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_every_row_says_which_token_it_is(dtype):
    inputs = Inputs(case(dtype=dtype, tokens=5000, hidden=16))
    ids = inputs.token_ids(3)
    assert (inputs.tokens.identify(inputs.tokens.rows(ids)) == ids).all()


def test_garbage_is_no_token():
    inputs = Inputs(case())
    rows = inputs.tokens.rows(np.arange(4)).elements
    rows[0, 0], rows[1, 1], rows[2, 2], rows[3, 0] = np.nan, 0.5, -1, 3e38
    assert inputs.tokens.identify(Rows(rows)).tolist() == [-1] * 4


def test_rows_of_experts_differ_by_rank_and_place():
    inputs = Inputs(case())
    rows = [inputs.expert_rows(rank, np.arange(inputs.zones.num_rows)) for rank in range(4)]
    flat = np.concatenate(rows).astype(np.float32)
    assert len(np.unique(flat, axis=0)) == len(flat)

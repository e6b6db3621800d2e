# SPDX-License-Identifier: Apache-2.0
"""Bytes by the routing, and the numbers that rows hold."""

from __future__ import annotations

import numpy as np
import pytest
from bench_cases import case

from ep_bench.inputs import Inputs
from ep_bench.traffic import ROUTE_BYTES, computed_remote_bytes, ideal_remote_bytes


def inputs_from(tmp_path, tables, **changes):
    np.savez(tmp_path / "routes.npz", **{f"topk_idx_{rank}": table for rank, table in enumerate(tables)})
    return Inputs(
        case(routing=str(tmp_path / "routes.npz"), num_ranks=2, experts=4, top_k=2, tokens=2, **changes)
    )


def test_ideal_is_one_row_for_each_token_and_remote_rank(tmp_path):
    # Experts 0 and 1 are rank 0's, 2 and 3 rank 1's.
    tables = [np.array([[0, 1], [2, 3]]), np.array([[0, 2], [-1, -1]])]
    inputs = inputs_from(tmp_path, tables, hidden=32)
    # Rank 0 sends its second token once, though both experts are there; rank 1 its first. 64 bytes a row.
    assert ideal_remote_bytes(inputs) == 64
    assert computed_remote_bytes(inputs) == 64 + 1.5 * ROUTE_BYTES


def test_uniform_top_8_of_256_reaches_the_expected_number_of_remote_ranks():
    inputs = Inputs(case(tokens=2000, top_k=8, experts=256, hidden=16))
    per_token = ideal_remote_bytes(inputs) / (2000 * inputs.case.row_bytes)
    assert per_token == pytest.approx(2.71, abs=0.03)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_every_row_says_which_token_it_is(dtype):
    inputs = Inputs(case(dtype=dtype, tokens=5000, hidden=16))
    ids = inputs.token_ids(3)
    assert (inputs.identify(inputs.token_rows(ids)) == ids).all()


def test_garbage_is_no_token():
    inputs = Inputs(case())
    rows = inputs.token_rows(np.arange(4))
    rows[0, 0], rows[1, 1], rows[2, 2], rows[3, 0] = np.nan, 0.5, -1, 3e38
    assert inputs.identify(rows).tolist() == [-1] * 4


def test_rows_of_experts_differ_by_rank_and_place():
    inputs = Inputs(case())
    rows = [inputs.expert_rows(rank, np.arange(inputs.zones.num_rows)) for rank in range(4)]
    flat = np.concatenate(rows).astype(np.float32)
    assert len(np.unique(flat, axis=0)) == len(flat)

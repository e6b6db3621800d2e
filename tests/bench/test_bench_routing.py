# SPDX-License-Identifier: Apache-2.0
"""Routings of ep_bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ep_bench.exits import UsageError
from ep_bench.routing import Shape, check_spec, file_shape, make_routing

SHAPE = Shape(num_ranks=4, num_tokens=500, num_topk=4, num_experts=32)


def counts(spec: str, seed: int = 3) -> np.ndarray:
    ids = np.concatenate([routing.topk_idx for routing in make_routing(spec, SHAPE, seed)])
    return np.sort(np.bincount(ids.ravel(), minlength=SHAPE.num_experts))[::-1]


@pytest.mark.parametrize("spec", ["uniform", "zipf:1.2", "hot:6", "hot:2"])
def test_a_token_has_different_experts_in_range_and_weights_that_sum_to_one(spec):
    for routing in make_routing(spec, SHAPE, 1):
        assert routing.topk_idx.shape == routing.topk_weights.shape == (500, 4)
        assert routing.topk_idx.min() >= 0
        assert routing.topk_idx.max() < 32
        assert all(len(set(token)) == 4 for token in routing.topk_idx.tolist())
        np.testing.assert_allclose(routing.topk_weights.sum(axis=1), 1, rtol=1e-6)
        assert routing.topk_weights.dtype == np.float32


def test_uniform_loads_experts_alike():
    load = counts("uniform")
    assert load[0] < 1.3 * load[-1]


def test_zipf_loads_experts_unevenly_and_a_larger_exponent_more_so():
    assert counts("zipf:0.5")[0] < counts("zipf:1.5")[0]
    assert counts("zipf:1.5")[0] > 5 * counts("zipf:1.5")[-1]


def test_hot_sends_all_routes_to_few_experts_and_what_is_left_anywhere():
    assert (counts("hot:6") > 0).sum() == 6
    load = counts("hot:2")  # four routes a token: two hot, two anywhere
    assert load[:2].tolist() == [2000, 2000]
    assert (load > 0).sum() == 32


def test_the_same_seed_gives_the_same_routes_and_another_one_others():
    first, again, other = (make_routing("uniform", SHAPE, seed)[2].topk_idx for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("spec", ["", "zipf", "zipf:x", "hot", "hot:0", "uniform:1", "file.npy"])
def test_what_is_no_routing_is_refused(spec):
    with pytest.raises(UsageError, match="expected uniform, zipf:A, hot:N or a file"):
        check_spec(spec)


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path / "routes.npz", **arrays)
    return str(path / "routes.npz")


def test_a_file_may_give_ranks_different_numbers_of_tokens_and_no_routes(tmp_path):
    path = save(tmp_path, topk_idx_0=np.array([[0, 1], [-1, 2]]), topk_idx_1=np.zeros((0, 2), np.int32))
    shape = file_shape(path, num_experts=4)
    assert shape == Shape(2, 2, 2, 4)
    first, second = make_routing(path, shape, 1)
    assert first.topk_idx.tolist() == [[0, 1], [-1, 2]]
    assert second.topk_idx.shape == second.topk_weights.shape == (0, 2)


def test_a_file_may_bring_weights(tmp_path):
    weights = np.array([[[0.5, 0.25]]])
    path = save(tmp_path, topk_idx=np.array([[[3, 1]]]), topk_weights=weights)
    assert make_routing(path, file_shape(path, 4), 1)[0].topk_weights.tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 4]], "has 0 to 4, expected -1 to 3"),
        ([[1, 1]], "names an expert twice"),
        ([[0.5, 1]], "expected integers"),
    ],
)
def test_impossible_routes_in_a_file_are_refused(tmp_path, table, message):
    path = save(tmp_path, topk_idx_0=np.array(table))
    with pytest.raises(UsageError, match=message):
        make_routing(path, file_shape(path, 4), 1)


def test_a_missing_file_and_a_file_without_routes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        file_shape(str(tmp_path / "none.npz"), 4)
    with pytest.raises(UsageError, match="expected an array topk_idx"):
        file_shape(save(tmp_path, other=np.zeros(3)), 4)

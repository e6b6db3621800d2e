# SPDX-License-Identifier: Apache-2.0
"""Routings of ep_bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ep_bench import routing
from ep_bench.exits import UsageError
from ep_bench.routing import Shape, check_spec, file_shape, make_routing

SHAPE = Shape(num_ranks=4, num_tokens=500, num_topk=4, num_experts=32)


def counts(spec: str, seed: int = 3) -> np.ndarray:
    ids = np.concatenate([found.topk_idx for found in make_routing(spec, SHAPE, seed)])
    return np.sort(np.bincount(ids.ravel(), minlength=SHAPE.num_experts))[::-1]


@pytest.mark.parametrize("spec", ["uniform", "zipf:1.2", "hot:6", "hot:2"])
def test_a_token_has_different_experts_in_range_and_weights_that_sum_to_one(spec):
    for drawn in make_routing(spec, SHAPE, 1):
        assert drawn.topk_idx.shape == drawn.topk_weights.shape == (500, 4)
        assert drawn.topk_idx.min() >= 0
        assert drawn.topk_idx.max() < 32
        assert all(len(set(token)) == 4 for token in drawn.topk_idx.tolist())
        np.testing.assert_allclose(drawn.topk_weights.sum(axis=1), 1, rtol=1e-6)
        assert drawn.topk_weights.dtype == np.float32


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


@pytest.mark.parametrize(
    "spec", ["", "zipf", "zipf:x", "hot", "hot:0", "uniform:1", "file.npy", "zipf:nan", "zipf:inf"]
)
def test_what_is_no_routing_is_refused(spec):
    with pytest.raises(UsageError, match="expected uniform, zipf:A, hot:N or a file"):
        check_spec(spec)


def test_there_are_no_more_hot_experts_than_experts():
    assert check_spec("hot:32", 32) == "hot:32"
    with pytest.raises(UsageError, match="--routing hot:33: expected at most the number of experts, 32"):
        make_routing("hot:33", SHAPE, 1)


def test_routes_that_this_host_could_not_draw_are_refused(monkeypatch):
    needed = 3 * 8 * SHAPE.num_tokens * SHAPE.num_experts
    monkeypatch.setattr(routing, "host_memory", lambda: needed)
    make_routing("uniform", SHAPE, 1)
    monkeypatch.setattr(routing, "host_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match=r"drawing routes of 500 tokens to 32 experts takes 0\.0 GiB"):
        make_routing("uniform", SHAPE, 1)


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


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[np.nan, 1]], "topk_weights of rank 0 have nan, expected finite numbers"),
        ([[1, 1e300]], "topk_weights of rank 0 have inf, expected finite numbers"),
        ([["a", "b"]], "topk_weights of rank 0 are <U1"),
        ([[1, 1], [1, 1]], r"topk_weights of rank 0 are .* \(2, 2\), expected numbers \(1, 2\)"),
    ],
)
def test_weights_in_a_file_that_are_no_weights_are_refused(tmp_path, weights, message):
    path = save(tmp_path, topk_idx_0=np.array([[0, 1]]), topk_weights_0=np.array(weights))
    with pytest.raises(UsageError, match=f"--routing {path}: {message}"):
        make_routing(path, file_shape(path, 4), 1)


def test_weights_of_other_ranks_than_those_with_routes_are_refused(tmp_path):
    path = save(tmp_path, topk_idx=np.zeros((2, 1, 1), int), topk_weights=np.ones((1, 1, 1)))
    with pytest.raises(UsageError, match="topk_weights are of 1 ranks, expected 2, as topk_idx"):
        make_routing(path, file_shape(path, 4), 1)


@pytest.mark.parametrize("extents", [(), (3,), (2, 3), (2, 3, 1, 1)])
def test_routes_that_are_no_table_for_each_rank_are_refused(tmp_path, extents):
    path = save(tmp_path, topk_idx=np.zeros(extents, int))
    with pytest.raises(UsageError, match=r"topk_idx of rank 0 is \(.*\), expected \[tokens, top-k\]"):
        file_shape(path, 4)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "routes.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"--routing {path}: is no .npz file of arrays: "):
        file_shape(str(path), 4)


def test_a_damaged_archive_is_refused(tmp_path):
    path = Path(save(tmp_path, topk_idx=np.zeros((2, 50, 2), int)))
    content = bytearray(path.read_bytes())
    content[200:210] = bytes(range(1, 11))
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is no \.npz file of arrays: Bad CRC"):
        file_shape(str(path), 4)

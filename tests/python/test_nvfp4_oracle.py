# SPDX-License-Identifier: Apache-2.0
"""The oracle of NVFP4 rows takes what is right, and nothing else."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import nvfp4_oracle
import pytest
from oracle import in_groups

Array = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)


def returned(row: Array, scale: float, *, moved: int = 0) -> Array:
    """What a row is when it comes back; ``moved`` gives groups the scales of others."""
    groups = in_groups(row.astype(np.float64), nvfp4_oracle.GROUP)
    with np.errstate(invalid="ignore"):
        scales = np.abs(groups).max(axis=-1, keepdims=True) * scale / 6
        scales = scales.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        numbers = np.clip(np.where(scales == 0, 0, groups * scale / np.where(scales == 0, 1, scales)), -6, 6)
        back = numbers.astype(ml_dtypes.float4_e2m1fn).astype(np.float64) * np.roll(scales, moved, axis=0)
    return (back / scale).reshape(row.shape)


def make_row(random: np.random.Generator) -> Array:
    sizes = np.repeat(np.exp2(random.integers(-20, 1, 8)), nvfp4_oracle.GROUP)
    return (random.standard_normal(128) * sizes).astype(BF16)


def test_what_the_oracle_takes() -> None:
    random = np.random.default_rng(5)
    for _ in range(50):
        row = make_row(random)
        row[:16] = 0
        row[16] = random.choice([np.nan, np.inf, 0])
        finite = np.where(np.isfinite(row.astype(np.float32)), row, 0).astype(BF16)
        scale = float(nvfp4_oracle.global_scales(finite)[0])
        limit = float(nvfp4_oracle.limits_of(np.array(scale)))
        errors = nvfp4_oracle.errors_of(row, limit)
        with np.errstate(invalid="ignore"):
            off = np.abs(returned(row, scale) - row.astype(np.float64))
            assert ((off <= errors * (1 + 1e-6)) | np.isnan(errors)).all()
        found = returned(finite, scale)[None].astype(BF16)
        nvfp4_oracle.assert_sums([[finite]], [[limit]], found)
        wrong = returned(finite, scale, moved=1)[None].astype(BF16)
        with pytest.raises(AssertionError, match=r"\[0, \d+\] is .*, expected"):
            nvfp4_oracle.assert_sums([[finite]], [[limit]], wrong)


def test_what_must_come_back_as_nan() -> None:
    row = np.ones(32, BF16)
    row[3] = np.nan
    found = row[None].copy()
    with pytest.raises(AssertionError, match=r"\[0, 0\] is 1.0"):
        nvfp4_oracle.assert_sums([[row]], [[1.0]], found)
    found[0, :16] = np.nan
    nvfp4_oracle.assert_sums([[row]], [[1.0]], found)


def test_global_scales() -> None:
    rows = np.array([[0, 0], [1, -2688], [np.nan, 1], [np.inf, 1]], np.float32)
    scales = nvfp4_oracle.global_scales(rows)
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(scales[:, 0], [0, 1, np.nan, 0])
    np.testing.assert_array_equal(nvfp4_oracle.limits_of(scales)[:, 0], [0, 2688, np.nan, 0])

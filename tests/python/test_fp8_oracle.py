# SPDX-License-Identifier: Apache-2.0
"""The oracle of quantized rows takes what is right, and nothing else."""

from __future__ import annotations

from typing import Any

import fp8_oracle
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from oracle import in_groups

Array = npt.NDArray[Any]


def quantized(elements: Array, rounded: bool) -> tuple[Array, Array]:
    scales = fp8_oracle.scales_of(elements, rounded=rounded).astype(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = in_groups(elements.astype(np.float32), fp8_oracle.GROUP) / scales[..., None]
    numbers = np.clip(numbers, -448, 448)
    return numbers.reshape(elements.shape).astype(ml_dtypes.float8_e4m3fn), scales


@pytest.mark.parametrize("rounded", [False, True])
def test_what_the_oracle_takes(rounded: bool) -> None:
    random = np.random.default_rng(5)
    elements = (random.standard_normal((3, 512)) * np.exp2(random.integers(-30, 30, (3, 512)))).astype(
        ml_dtypes.bfloat16
    )
    elements[0, :128] = 0
    elements[1, 130] = np.inf
    elements[2, 500] = np.nan
    numbers, scales = quantized(elements, rounded)
    fp8_oracle.assert_quantized(elements, numbers, scales, rounded=rounded)
    with pytest.raises(AssertionError, match="scales"):
        fp8_oracle.assert_quantized(elements, numbers, np.roll(scales, 1, axis=-1), rounded=rounded)
    with pytest.raises(AssertionError, match="rows"):
        fp8_oracle.assert_quantized(elements, np.roll(numbers, 1, axis=-1), scales, rounded=rounded)

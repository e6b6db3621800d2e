# SPDX-License-Identifier: Apache-2.0
"""Formats of rows: elements and scales, and in which types they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from nccl_ep.dtypes import DataType, numpy_dtype

DTYPES: dict[str, np.dtype[Any]] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}
"""What is computed with, and so what combine sums."""

TOKEN_TYPES = {
    "e4m3": DataType.FLOAT8E4M3,
    "e5m2": DataType.FLOAT8E5M2,
    "float4x2": DataType.FLOAT4X2,
    "bf16": DataType.BFLOAT16,
    "fp16": DataType.FLOAT16,
    "fp32": DataType.FLOAT32,
}
SCALE_TYPES = {
    "fp32": DataType.FLOAT32,
    "fp16": DataType.FLOAT16,
    "bf16": DataType.BFLOAT16,
    "e4m3": DataType.FLOAT8E4M3,
    "e5m2": DataType.FLOAT8E5M2,
    "uint8": DataType.UINT8,
}


@dataclass(frozen=True)
class Part:
    """The elements of a row, or its scales: the last extent of a tensor, and its type."""

    width: int
    datatype: DataType

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type for the memory."""
        return numpy_dtype(self.datatype)

    @property
    def num_bytes(self) -> int:
        """Of one row."""
        return self.width * self.datatype.itemsize


@dataclass(frozen=True)
class Format:
    """What a row consists of.

    Attributes:
        scales: or None, where rows have none.
    """

    elements: Part
    scales: Part | None = None

    @property
    def num_bytes(self) -> int:
        """Of a row with its scales."""
        return sum(part.num_bytes for part in (self.elements, self.scales) if part is not None)

# SPDX-License-Identifier: Apache-2.0
"""NCCL's data types, and how NumPy, PyTorch and DLPack call them."""

from __future__ import annotations

from contextlib import suppress
from enum import IntEnum
from typing import Any

import ml_dtypes
import numpy as np


class DataType(IntEnum):
    """The ``ncclDataType_t`` of a tensor."""

    INT8 = 0
    UINT8 = 1
    INT32 = 2
    UINT32 = 3
    INT64 = 4
    UINT64 = 5
    FLOAT16 = 6
    FLOAT32 = 7
    FLOAT64 = 8
    BFLOAT16 = 9
    FLOAT8E4M3 = 10
    FLOAT8E5M2 = 11
    FLOAT4X2 = 12

    @property
    def itemsize(self) -> int:
        """Bytes of one element. A FLOAT4X2 element is two numbers in one byte."""
        return _ITEM_BYTES[self]

    @classmethod
    def of(cls, dtype: Any) -> DataType:
        """The data type for a DataType, a NumPy or PyTorch dtype, a scalar type, or a name.

        >>> DataType.of("bfloat16"), DataType.of(np.int32)
        (<DataType.BFLOAT16: 9>, <DataType.INT32: 2>)
        """
        if isinstance(dtype, int):
            return cls(dtype)
        name = str(dtype).removeprefix("torch.")
        if name not in _BY_NAME:
            with suppress(TypeError):
                known = np.dtype(dtype)
                name = known.name if known.isnative else name
        if name not in _BY_NAME:
            raise TypeError(f"{dtype!r} is no data type of NCCL; those are {', '.join(sorted(_BY_NAME))}")
        return _BY_NAME[name]

    @classmethod
    def of_dlpack(cls, code: int, bits: int) -> DataType:
        """The data type for a DLPack type code and width."""
        try:
            return _BY_DLPACK[code, bits]
        except KeyError:
            raise TypeError(f"DLPack type code {code} with {bits} bits is no data type of NCCL") from None


_ITEM_BYTES = dict(zip(DataType, (1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1, 1), strict=True))

_BY_NAME = {
    "int8": DataType.INT8,
    "uint8": DataType.UINT8,
    "int32": DataType.INT32,
    "uint32": DataType.UINT32,
    "int64": DataType.INT64,
    "uint64": DataType.UINT64,
    "float16": DataType.FLOAT16,
    "float32": DataType.FLOAT32,
    "float64": DataType.FLOAT64,
    "bfloat16": DataType.BFLOAT16,
    "float8_e4m3fn": DataType.FLOAT8E4M3,
    "float8_e5m2": DataType.FLOAT8E5M2,
    "float4_e2m1fn_x2": DataType.FLOAT4X2,
}

# Codes of DLPack: 0 signed, 1 unsigned, 2 float, 4 bfloat, 10 float8_e4m3fn, 12 float8_e5m2, 17
# float4_e2m1fn.
_BY_DLPACK = {
    (0, 8): DataType.INT8,
    (1, 8): DataType.UINT8,
    (0, 32): DataType.INT32,
    (1, 32): DataType.UINT32,
    (0, 64): DataType.INT64,
    (1, 64): DataType.UINT64,
    (2, 16): DataType.FLOAT16,
    (2, 32): DataType.FLOAT32,
    (2, 64): DataType.FLOAT64,
    (4, 16): DataType.BFLOAT16,
    (10, 8): DataType.FLOAT8E4M3,
    (12, 8): DataType.FLOAT8E5M2,
    (17, 4): DataType.FLOAT4X2,
}


_IN_MEMORY: dict[DataType, np.dtype[Any]] = {
    DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DataType.FLOAT8E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    DataType.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DataType.FLOAT4X2: np.dtype(np.uint8),  # NumPy has no element that is two numbers
}


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype for a dtype, a scalar type, a name or a :class:`nccl_ep.DataType`."""
    if not isinstance(dtype, DataType):
        try:
            known: np.dtype[Any] = np.dtype(dtype)
            return known
        except TypeError:
            dtype = DataType.of(dtype)
    return _IN_MEMORY[dtype] if dtype in _IN_MEMORY else np.dtype(dtype.name.lower())

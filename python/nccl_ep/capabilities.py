# SPDX-License-Identifier: Apache-2.0
"""What a call would do with windows, asked before there are any: see :meth:`Group.capabilities`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nccl_ep._ffi import ffi
from nccl_ep._pairing import CStruct, paired_with
from nccl_ep.dtypes import DataType
from nccl_ep.enums import (
    CombineQuantizationRecipe,
    DispatchQuantizationRecipe,
    Operation,
    PassDir,
    RowPath,
)


@paired_with("ncclEpCapabilityQuery_t", quantization_recipe="quant_recipe")
@dataclass(frozen=True)
class CapabilityQuery(CStruct):
    """A call that might be made.

    Attributes:
        operation: DISPATCH or COMBINE.
        pass_direction: as in the call's config.
        quantization_recipe: of the operation, as in the call's config.
        datatype: of the input tokens, by any name of a data type.
        hidden: elements in a row of the input tokens; required.
        scales_datatype: of the input scales.
        num_scales: in a row of the input scales; 0: there are none.
        tokens_in_window: whether dispatch's output tokens, or combine's input tokens, have a window.
        scales_in_window: whether the scales beside them have one.
    """

    operation: Operation | int
    pass_direction: PassDir | int = PassDir.FWD
    quantization_recipe: DispatchQuantizationRecipe | CombineQuantizationRecipe | int = 0
    datatype: Any = DataType.BFLOAT16
    hidden: int = 0
    scales_datatype: Any = DataType.FLOAT32
    num_scales: int = 0
    tokens_in_window: bool = False
    scales_in_window: bool = False

    def __post_init__(self) -> None:
        for name in ("datatype", "scales_datatype"):
            object.__setattr__(self, name, DataType.of(getattr(self, name)))
        super().__post_init__()


@dataclass(frozen=True)
class TensorPath:
    """One tensor's part of the answer.

    Attributes:
        path: how its rows travel.
        reason: a sentence about it, empty where there is no such tensor.
    """

    path: RowPath
    reason: str


@dataclass(frozen=True)
class Capabilities:
    """What a call would do.

    Attributes:
        result: the ``ncclResult_t`` that it would return, were everything else right; 0 if it would run.
        inputs_tokens: the way of its rows; the others alike. Of a call that would be refused, all say why.
        inputs_scales: of dispatch: the caller's; of combine: those of the recipe.
        outputs_tokens: of dispatch: the received rows.
        outputs_scales: of dispatch.
    """

    result: int
    inputs_tokens: TensorPath
    inputs_scales: TensorPath
    outputs_tokens: TensorPath
    outputs_scales: TensorPath

    @classmethod
    def of(cls, c: Any) -> Capabilities:
        """A copy of the C struct."""
        names = ("inputs_tokens", "inputs_scales", "outputs_tokens", "outputs_scales")
        return cls(int(c.result), **{name: _path_of(getattr(c, name)) for name in names})


def _path_of(c: Any) -> TensorPath:
    return TensorPath(RowPath(c.path), ffi.string(c.reason).decode())

# SPDX-License-Identifier: Apache-2.0
"""Recipes: how rows are quantized on their way, by the caller or by the library."""

from __future__ import annotations

from dataclasses import dataclass

from nccl_ep import CombineQuantizationRecipe, DispatchQuantizationRecipe
from nccl_ep.dtypes import DataType

from ep_bench.exits import UsageError
from ep_bench.formats import SCALE_TYPES, TOKEN_TYPES, Format, Part

GROUP = 128
"""Elements that share a scale: where the library makes FP8, and where the caller quantizes by default."""
NVFP4_GROUP = 16
"""The same of NVFP4."""

# How a row says which token it is, on top of its elements: in digits of any type, in bits, or in bytes.
ID_DIGIT = 128  # exact in every data type
NUM_ID_DIGITS = 3
NUM_ID_BITS = 24
NUM_ID_BYTES = 4


@dataclass(frozen=True)
class Recipe:
    """The recipes of dispatch and combine.

    Attributes:
        name: as it is written on the command line.
        token, scale: types of rows that the caller has quantized.
        group: elements that share a scale.
        exact: combine adds up every expert's row at home, in top-k order.
    """

    name: str
    dispatch: DispatchQuantizationRecipe = DispatchQuantizationRecipe.NONE
    combine: CombineQuantizationRecipe = CombineQuantizationRecipe.NONE
    token: DataType | None = None
    scale: DataType | None = None
    group: int = GROUP
    exact: bool = False

    @property
    def quantizes_dispatch(self) -> bool:
        return self.dispatch is DispatchQuantizationRecipe.DS_FP8E3M4

    @property
    def quantizes_combine(self) -> bool:
        return self.combine is not CombineQuantizationRecipe.NONE

    @property
    def has_global_scales(self) -> bool:
        """Whether combine takes a float32 scale for each row."""
        return self.combine is CombineQuantizationRecipe.NVFP4

    @property
    def most_tokens(self) -> int:
        """Of all ranks together: so many can be told apart."""
        if self.quantizes_dispatch:
            return 1 << NUM_ID_BITS
        return int(ID_DIGIT**NUM_ID_DIGITS) if self.token is None else 1 << 8 * NUM_ID_BYTES

    def sent(self, numbers: Part) -> Format:
        """What dispatch takes of tokens that would be ``numbers`` without a recipe."""
        if self.token is None or self.scale is None:
            return Format(numbers)
        width = numbers.width // 2 if self.token is DataType.FLOAT4X2 else numbers.width
        return Format(Part(width, self.token), Part(numbers.width // self.group, self.scale))

    def received(self, numbers: Part) -> Format:
        """What dispatch makes of them."""
        return _quantized(numbers.width) if self.quantizes_dispatch else self.sent(numbers)

    def returned(self, numbers: Part) -> Format:
        """What travels in combine, but for global scales."""
        if self.has_global_scales:
            scales = Part(numbers.width // NVFP4_GROUP, DataType.FLOAT8E4M3)
            return Format(Part(numbers.width // 2, DataType.FLOAT4X2), scales)
        return _quantized(numbers.width) if self.quantizes_combine else Format(numbers)

    def __str__(self) -> str:
        return self.name


def _quantized(hidden: int) -> Format:
    return Format(Part(hidden, DataType.FLOAT8E4M3), Part(hidden // GROUP, DataType.FLOAT32))


NO_RECIPE = Recipe("none")

_NAMED = {
    "none": NO_RECIPE,
    "mxfp8": Recipe(
        "mxfp8", DispatchQuantizationRecipe.FWD, token=DataType.FLOAT8E4M3, scale=DataType.UINT8, group=32
    ),
    "nvfp4": Recipe(
        "nvfp4",
        DispatchQuantizationRecipe.FWD,
        token=DataType.FLOAT4X2,
        scale=DataType.FLOAT8E4M3,
        group=NVFP4_GROUP,
    ),
    "ds-fp8": Recipe("ds-fp8", DispatchQuantizationRecipe.DS_FP8E3M4),
    "fp8-combine": Recipe("fp8-combine", combine=CombineQuantizationRecipe.FP8),
    "nvfp4-combine": Recipe("nvfp4-combine", combine=CombineQuantizationRecipe.NVFP4, group=NVFP4_GROUP),
    "exact": Recipe("exact", group=1, exact=True),
}


def recipe_of(text: str) -> Recipe:
    """The recipe by its name, or ``fwd:TOKEN/SCALE[/N]``; UsageError if there is none."""
    if text in _NAMED:
        return _NAMED[text]
    kind, _, types = text.partition(":")
    token, scale, group = [*types.split("/"), str(GROUP)][:3] if types.count("/") in (1, 2) else ("", "", "")
    if kind != "fwd" or not group.isdecimal() or int(group) < 1:
        raise UsageError(f"{text!r} is unknown, expected {', '.join(_NAMED)} or fwd:TOKEN/SCALE[/N]")
    for name, known in ((token, TOKEN_TYPES), (scale, SCALE_TYPES)):
        if name not in known:
            raise UsageError(f"{text}: {name!r} is unknown, expected {', '.join(known)}")
    return Recipe(
        text, DispatchQuantizationRecipe.FWD, token=TOKEN_TYPES[token], scale=SCALE_TYPES[scale],
        group=int(group),
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""The enumerations of the C API. Names and values are compared with the header at import."""

from __future__ import annotations

from enum import IntEnum

from nccl_ep._ffi import ffi


class Algorithm(IntEnum):
    """How tokens travel."""

    LOW_LATENCY = 0
    HIGH_THROUGHPUT = 1


class Layout(IntEnum):
    """How received rows are arranged. Low latency: EXPERT_MAJOR, RANK_MAJOR; else EXPERT_MAJOR, FLAT."""

    UNSET = 0
    EXPERT_MAJOR = 1
    RANK_MAJOR = 2
    FLAT = 3


class PassDir(IntEnum):
    """Forward or backward pass (high throughput only)."""

    FWD = 0
    BWD = 1


class OverflowPolicy(IntEnum):
    """What happens when more rows would arrive than the receive budget holds: an error, or some are left out
    and add nothing in combine. AUTO means TRAP.
    """

    AUTO = 0
    TRAP = 1
    DROP = 2


class ZeroCopyMode(IntEnum):
    """Whether kernels write into the caller's windows directly: where possible, or always."""

    AUTO = 0
    OFF = 1
    ON = 2


class ExpertIdKind(IntEnum):
    """Numbering of the expert ids that dispatch returns: within the rank (also AUTO), or within the world."""

    AUTO = 0
    LOCAL = 1
    GLOBAL = 2


class DispatchQuantizationRecipe(IntEnum):
    """How dispatch treats the tokens' numbers on the way.

    NONE: bf16, fp16 or fp32, as they are. FWD: rows that the caller has quantized, with the caller's scales.
    DS_FP8E3M4: bf16 arrives as fp8 E4M3 with a float32 scale for each 128 elements.
    """

    NONE = 0
    FWD = 1
    DS_FP8E3M4 = 2


class CombineQuantizationRecipe(IntEnum):
    """How combine treats the tokens' numbers on the way.

    NONE: bf16, fp16 or fp32, as they are. NVFP4: bf16 travels as E2M1 with an E4M3 scale for each 16
    elements, below the row's global scale, which the caller gives (low latency). FP8: bf16 travels as fp8
    E4M3 with a float32 scale for each 128 elements (low latency; high throughput forward).
    """

    NONE = 0
    NVFP4 = 1
    FP8 = 2


class Operation(IntEnum):
    """The calls that send something; low latency has no update."""

    UPDATE = 0
    DISPATCH = 1
    COMBINE = 2


class RowPath(IntEnum):
    """How the rows of a tensor get there, or away from there.

    NONE: the call has no such tensor. REFUSED: the call would be refused. IN_PLACE: this rank alone reads or
    writes it, where it is, and a window changes nothing. STAGED: rows arrive in the library's window, and
    this rank copies them from there. DIRECT: other ranks write them where they belong.
    """

    NONE = 0
    REFUSED = 1
    IN_PLACE = 2
    STAGED = 3
    DIRECT = 4


def _check_against_header(python: type[IntEnum], c_name: str, prefix: str, suffix: str = "") -> None:
    in_c = {name: value for name, value in ffi.typeof(c_name).relements.items()}
    in_python = {f"{prefix}{member.name}{suffix}": member.value for member in python}
    if in_c != in_python:
        raise ImportError(f"nccl_ep.{python.__name__} is {in_python}, but nccl_ep.h says {in_c}")


for _python, _c_name, _prefix, _suffix in (
    (Algorithm, "ncclEpAlgorithm_t", "NCCL_EP_ALGO_", ""),
    (Layout, "ncclEpLayout_t", "NCCL_EP_LAYOUT_", ""),
    (PassDir, "ncclEpPassDir_t", "NCCL_EP_", "_PASS"),
    (OverflowPolicy, "ncclEpOverflowPolicy_t", "NCCL_EP_OVERFLOW_", ""),
    (ZeroCopyMode, "ncclEpZeroCopyMode_t", "NCCL_EP_ZERO_COPY_", ""),
    (ExpertIdKind, "ncclEpExpertIdKind_t", "NCCL_EP_EXPERT_ID_", ""),
    (DispatchQuantizationRecipe, "ncclEpDispQuant_t", "NCCL_EP_DISP_QUANT_", ""),
    (CombineQuantizationRecipe, "ncclEpCombQuant_t", "NCCL_EP_COMB_QUANT_", ""),
    (Operation, "ncclEpOperation_t", "NCCL_EP_OPERATION_", ""),
    (RowPath, "ncclEpRowPath_t", "NCCL_EP_ROW_PATH_", ""),
):
    _check_against_header(_python, _c_name, _prefix, _suffix)

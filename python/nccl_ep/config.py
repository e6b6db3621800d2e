# SPDX-License-Identifier: Apache-2.0
"""Configurations. Frozen; each is compared with its C struct at import. Zero means the default everywhere."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from nccl_ep._pairing import CStruct, paired_with
from nccl_ep.enums import (
    Algorithm,
    CombineQuantizationRecipe,
    DispatchQuantizationRecipe,
    OverflowPolicy,
    PassDir,
    ZeroCopyMode,
)

AllocFn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_void_p)
"""``cudaError_t alloc(void** ptr, size_t size, void* context)``; 0 is success."""

FreeFn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
"""``cudaError_t free(void* ptr, void* context)``; 0 is success."""


@paired_with("ncclEpAllocConfig_t")
@dataclass(frozen=True)
class AllocConfig(CStruct):
    """Your own device allocator, for everything but symmetric memory. Give both functions or neither.

    Functions are addresses, or :data:`AllocFn` and :data:`FreeFn` objects, which are kept alive. They are
    called while a group or handle is made or destroyed, from the thread that does it.
    """

    alloc_fn: Any = 0
    free_fn: Any = 0
    context: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "_functions", (self.alloc_fn, self.free_fn))
        for name in ("alloc_fn", "free_fn"):
            object.__setattr__(self, name, ctypes.cast(getattr(self, name), ctypes.c_void_p).value or 0)
        super().__post_init__()


@paired_with("ncclEpGroupConfig_t")
@dataclass(frozen=True)
class GroupConfig(CStruct):
    """What all handles of a group share. Equal on all ranks.

    ``alloc``, ``max_num_sms`` and ``timeout_ns`` may differ.

    Attributes:
        algorithm: LOW_LATENCY for decoding, HIGH_THROUGHPUT for prefill and training.
        num_experts: experts of all ranks together; a multiple of the number of ranks.
        max_dispatch_tokens_per_rank: most tokens that one rank dispatches in one call.
        max_recv_tokens_per_rank: high throughput: receive budget in rows, padding included, at least
            ``max_dispatch_tokens_per_rank``; 0 sizes outputs by the actual count, which dispatch then waits
            for.
        max_token_bytes: most bytes of one token's row, scales included.
        rdma_buffer_size: bytes of symmetric memory; 0: as much as is needed.
        num_qp_per_rank: has no effect.
        num_channels: accepted for compatibility, unused.
        max_num_sms: most SMs that the kernels occupy; 0 chooses.
        alloc: your own device allocator.
        enable_mask: go on without ranks that do not answer within ``timeout_ns``.
        timeout_ns: longest wait for another rank; 0 chooses.
        zero_copy: whether kernels write into the caller's windows directly: AUTO where there are some, ON
            only there; no difference in low latency.
        overflow_policy: what to do with rows beyond the receive budget: TRAP makes it an error, DROP leaves
            some out, evenly over ranks and experts.
        num_topk: largest top-k of any handle, 0: any; needed by expert-major high throughput without budget,
            and with ``exact_combine``.
        exact_combine: combine brings every expert's row home and adds them up there in top-k order, in
            float32, so that sums do not depend on which ranks the experts are on (expert-major).
    """

    algorithm: Algorithm | int = Algorithm.LOW_LATENCY
    num_experts: int = 0
    max_dispatch_tokens_per_rank: int = 0
    max_recv_tokens_per_rank: int = 0
    max_token_bytes: int = 0
    rdma_buffer_size: int = 0
    num_qp_per_rank: int = 0
    num_channels: int = 0
    max_num_sms: int = 0
    alloc: AllocConfig = field(default_factory=AllocConfig)
    enable_mask: bool = False
    timeout_ns: int = 0
    zero_copy: ZeroCopyMode | int = ZeroCopyMode.AUTO
    overflow_policy: OverflowPolicy | int = OverflowPolicy.AUTO
    num_topk: int = 0
    exact_combine: bool = False


@paired_with("ncclEpHandleConfig_t")
@dataclass(frozen=True)
class HandleConfig(CStruct):
    """Options of a handle.

    Attributes:
        dispatch_output_per_expert_alignment: high throughput, expert-major: each expert's rows start at a
            multiple of this power of two; 0 and 1 mean no alignment.
    """

    dispatch_output_per_expert_alignment: int = 0


@paired_with("ncclEpDispatchConfig_t", quantization_recipe="quant_recipe")
@dataclass(frozen=True)
class DispatchConfig(CStruct):
    """Options of one dispatch.

    Attributes:
        send_only: send now, receive when :meth:`Handle.complete` is called (low latency).
        round_scales: round computed scales up to powers of two (DS_FP8E3M4).
        pass_direction: forward or backward (high throughput).
        quantization_recipe: what happens to the numbers on the way.
    """

    send_only: bool | int = False
    round_scales: bool | int = False
    pass_direction: PassDir | int = PassDir.FWD
    quantization_recipe: DispatchQuantizationRecipe | int = DispatchQuantizationRecipe.NONE


@paired_with("ncclEpCombineConfig_t", quantization_recipe="quant_recipe")
@dataclass(frozen=True)
class CombineConfig(CStruct):
    """Options of one combine.

    Attributes:
        send_only: send now, receive when :meth:`Handle.complete` is called (low latency).
        pass_direction: forward or backward (high throughput).
        quantization_recipe: what happens to the numbers on the way.
    """

    send_only: bool | int = False
    pass_direction: PassDir | int = PassDir.FWD
    quantization_recipe: CombineQuantizationRecipe | int = CombineQuantizationRecipe.NONE


@paired_with("ncclEpCompleteConfig_t")
@dataclass(frozen=True)
class CompleteConfig(CStruct):
    """Options of :meth:`Handle.complete`: none so far."""

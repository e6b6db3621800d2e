# SPDX-License-Identifier: Apache-2.0
"""The tensors of one call. Shapes by algorithm and layout are with :meth:`Handle.dispatch` and
`Handle.combine`.

Every tensor field takes a :class:`Tensor` or whatever :class:`Tensor` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nccl_ep._pairing import CStruct, paired_with
from nccl_ep.enums import ExpertIdKind
from nccl_ep.tensor import Tensor


class _Tensors(CStruct):
    """Turns whatever fields hold into tensors, before the C struct is built."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None and field.name != "recv_topk_idx_kind":
                object.__setattr__(self, field.name, Tensor.of(value))
        super().__post_init__()


@paired_with("ncclEpLayoutInfo_t")
@dataclass(frozen=True)
class LayoutInfo(_Tensors):
    """Where the counts of received rows go, and how many tokens there are.

    Attributes:
        expert_counters: rows of each local expert, without what was dropped.
        src_rank_counters: rows from each source rank.
        expert_offsets: first row of each local expert.
        recv_total_counter: rows in total, with what was dropped.
        recv_topk_idx_kind: numbering of the received expert ids; read by dispatch.
        num_tokens: given to update: how many tokens there are, the first rows of ``topk_idx``; None: all.
    """

    expert_counters: Any = None
    src_rank_counters: Any = None
    expert_offsets: Any = None
    recv_total_counter: Any = None
    recv_topk_idx_kind: ExpertIdKind | int = ExpertIdKind.AUTO
    num_tokens: Any = None


@paired_with("ncclEpDispatchInputs_t")
@dataclass(frozen=True)
class DispatchInputs(_Tensors):
    """What a rank sends.

    Attributes:
        tokens: ``[b, H]``, a row for each token.
        topk_weights: the weights of its experts, float32 ``[b, K]``, where the layout takes them.
        scales: with the recipe FWD alone: the caller's, ``[b, n]`` with n of them for a row, at least 1, of
            float32, float16, bfloat16, FLOAT8E4M3, FLOAT8E5M2 or uint8. They are moved as they are.
    """

    tokens: Any
    topk_weights: Any = None
    scales: Any = None


@paired_with("ncclEpDispatchOutputs_t")
@dataclass(frozen=True)
class DispatchOutputs(_Tensors):
    """What a rank receives. Rows that no token fills keep what they had.

    Attributes:
        tokens: the rows.
        topk_weights: their weights, float32, where the layout has them.
        scales: with a recipe: theirs, of the shape of ``tokens`` but for the last extent. FWD: the type and
            number of ``inputs.scales``. DS_FP8E3M4: float32, H / 128 of them.
        topk_idx: their experts, rank-major int32 and flat int64.
    """

    tokens: Any
    topk_weights: Any = None
    scales: Any = None
    topk_idx: Any = None


@paired_with("ncclEpCombineInputs_t")
@dataclass(frozen=True)
class CombineInputs(_Tensors):
    """What a rank gives back: its experts' rows, where dispatch had put them.

    Attributes:
        tokens: the rows.
        topk_weights: high throughput, backward: the gradients of what dispatch gave out, float32.
        scales: with the recipe NVFP4 alone: the global scale of each row, 2688 / its largest magnitude or 0
            for zeros, float32, of the shape of ``tokens`` but for the last extent, which is 1.
    """

    tokens: Any
    topk_weights: Any = None
    scales: Any = None


@paired_with("ncclEpCombineOutputs_t")
@dataclass(frozen=True)
class CombineOutputs(_Tensors):
    """What a rank gets back for its tokens.

    Attributes:
        tokens: one row a token.
        topk_weights: low latency, expert-major: an *input*, the weights of the sum, in spite of its place.
            High throughput, backward: the gradients of the weights.
    """

    tokens: Any
    topk_weights: Any = None

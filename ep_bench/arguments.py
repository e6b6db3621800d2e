# SPDX-License-Identifier: Apache-2.0
"""What the library's calls are given for a case."""

from __future__ import annotations

from typing import Any

import nccl_ep
from nccl_ep.plan import ALGORITHMS, OVERFLOW

from ep_bench.buffers import Buffers
from ep_bench.cases import Case
from ep_bench.formats import Part

PASSES = {"fwd": nccl_ep.PassDir.FWD, "bwd": nccl_ep.PassDir.BWD}


def group_config(case: Case, budget: int) -> nccl_ep.GroupConfig:
    """The group's. ``budget`` is that of the case's zones, 0 in low latency."""
    modes = nccl_ep.ZeroCopyMode
    return nccl_ep.GroupConfig(
        algorithm=ALGORITHMS[case.algorithm],
        num_experts=case.experts,
        max_dispatch_tokens_per_rank=case.tokens,
        max_recv_tokens_per_rank=0 if case.eager else budget,
        max_token_bytes=-(-case.most_row_bytes // 16) * 16,
        max_num_sms=case.sms,
        zero_copy=modes.ON if case.zero_copy else modes.OFF,
        overflow_policy=OVERFLOW[case.overflow] if case.algorithm == "ht" else nccl_ep.OverflowPolicy.AUTO,
        num_topk=case.top_k,
        enable_mask=case.mask,
        timeout_ns=case.timeout_ns,
        exact_combine=case.recipe.exact,
    )


def handle_config(case: Case) -> nccl_ep.HandleConfig:
    """The handle's."""
    return nccl_ep.HandleConfig(case.alignment if case.alignment > 1 else 0)


def update_info(case: Case, buffers: Buffers) -> nccl_ep.LayoutInfo | None:
    """The layout info of an update: high throughput counts there."""
    return nccl_ep.LayoutInfo(**buffers.counters) if case.algorithm == "ht" else None


def dispatch_arguments(case: Case, buffers: Buffers) -> tuple[Any, ...]:
    """Inputs, outputs, layout info and configuration of a dispatch."""
    sent, arriving = case.sent, case.received
    received = _tensor(arriving.elements, buffers.received, buffers.window)
    scales = _tensor(arriving.scales, buffers.received_scales, buffers.scales_window)
    # The expert-major layout of low latency applies weights in combine.
    sent_weights = None if buffers.received_weights is None else buffers.topk_weights
    return (
        nccl_ep.DispatchInputs(
            _tensor(sent.elements, buffers.tokens), sent_weights, _tensor(sent.scales, buffers.scales)
        ),
        nccl_ep.DispatchOutputs(received, buffers.received_weights, scales, buffers.received_idx),
        nccl_ep.LayoutInfo(**buffers.counters) if case.algorithm == "ll" else nccl_ep.LayoutInfo(),
        nccl_ep.DispatchConfig(
            pass_direction=PASSES[case.pass_direction], quantization_recipe=case.recipe.dispatch
        ),
    )


def combine_arguments(case: Case, buffers: Buffers) -> tuple[Any, ...]:
    """Inputs, outputs and configuration of a combine."""
    rows = _tensor(case.numbers, buffers.expert_rows, buffers.expert_window)
    applies_weights = (case.algorithm, case.layout) == ("ll", "em")
    weights = buffers.topk_weights if applies_weights else buffers.combined_weights
    return (
        nccl_ep.CombineInputs(rows, buffers.expert_weights, buffers.global_scales),
        nccl_ep.CombineOutputs(buffers.combined, weights),
        nccl_ep.CombineConfig(
            pass_direction=PASSES[case.pass_direction], quantization_recipe=case.recipe.combine
        ),
    )


def _tensor(part: Part | None, array: Any, window: Any = None) -> nccl_ep.Tensor | None:
    if part is None:
        return None
    offset = None if window is None else 0
    return nccl_ep.Tensor(array, dtype=part.datatype, window=window, window_offset=offset)

# SPDX-License-Identifier: Apache-2.0
"""Recipes of a Low-Latency dispatch whose tensors cannot be: the code, and a message that says why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import misuse
import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest
from ll_desk import EM, RM, Desk
from misuse import BF16, IA, IU, Act, B, E, H, b, expect, table

refused = partial(misuse.refused, Desk)

E4M3 = ml_dtypes.float8_e4m3fn
FWD, DS = ep.DispatchQuantizationRecipe.FWD, ep.DispatchQuantizationRecipe.DS_FP8E3M4
HIDDEN = 128  # of rows that dispatch quantizes
MAX_TOKEN_BYTES = 160


Change = Callable[[Desk], dict[str, Any]]


def forward(inputs: Change = lambda d: {}, outputs: Change = lambda d: {}, **config: Any) -> Act:
    """A dispatch of E4M3 rows with four scales each, with these changes."""

    def act(d: Desk) -> None:
        good_inputs = {"tokens": d.array((b, H), E4M3), "scales": d.array((b, 4), np.float32)}
        good_outputs = {"tokens": d.array((E, B, H), E4M3), "scales": d.array((E, B, 4), np.float32)}
        d.handle().dispatch(
            d.inputs(**(good_inputs | inputs(d))),
            d.outputs(**(good_outputs | outputs(d))),
            layout_info=d.info(),
            config=ep.DispatchConfig(quantization_recipe=FWD, **config),
        )

    return act


def quantized(inputs: Change = lambda d: {}, outputs: Change = lambda d: {}) -> Act:
    """A dispatch of bf16 rows that become E4M3, with these changes."""

    def act(d: Desk) -> None:
        zone = (E, B) if d.layout is EM else (1, B)
        good_outputs = {"tokens": d.array((*zone, HIDDEN), E4M3), "scales": d.array((*zone, 1), np.float32)}
        d.handle().dispatch(
            d.inputs(**({"tokens": d.array((b, HIDDEN), BF16)} | inputs(d))),
            d.outputs(**(good_outputs | outputs(d))),
            layout_info=d.info(),
            config=ep.DispatchConfig(quantization_recipe=DS),
        )

    return act


def askew(d: Desk) -> ep.Tensor:
    """Scales that are not at a multiple of their size."""
    return ep.Tensor(ep.Tensor(d.array((100,), np.uint8)).ptr + 2, dtype="float32", shape=(b, 4))


@table(
    ("no scales", forward(lambda d: {"scales": None}), IA, r"inputs\.scales.*is NULL, expected a tensor"),
    (
        "scales of int",
        forward(lambda d: {"scales": d.array((b, 4), np.int32)}),
        IA,
        r"inputs\.scales.*int32.*expected float32 or float16 or bfloat16 or float8e4m3 or .* or uint8",
    ),
    (
        "scales of FP4",
        forward(lambda d: {"scales": ep.Tensor(d.array((b, 4), np.uint8), dtype="float4_e2m1fn_x2")}),
        IA,
        r"inputs\.scales.*float4x2.*expected",
    ),
    (
        "scales 1D",
        forward(lambda d: {"scales": d.array((b,), np.float32)}),
        IA,
        r"inputs\.scales.*1 dim.*expected 2",
    ),
    (
        "scales of no token",
        forward(lambda d: {"scales": d.array((b + 1, 4), np.float32)}),
        IA,
        r"inputs\.scales.*extent 0 is 4.*expected 3 = tokens",
    ),
    (
        "0 scales",
        forward(lambda d: {"scales": d.array((b, 0), np.float32)}),
        IA,
        r"inputs\.scales.*extent 1 is 0.*expected at least 1",
    ),
    ("scales askew", forward(lambda d: {"scales": askew(d)}), IA, r"inputs\.scales.*2 bytes.*multiple of 4"),
    (
        "tokens of uint8",
        forward(lambda d: {"tokens": d.array((b, H), np.uint8)}),
        IA,
        r"inputs\.tokens.*uint8.*expected bfloat16 .* or float4x2",
    ),
    (
        "row of 24 bytes",
        forward(lambda d: {"tokens": d.array((b, 24), E4M3)}),
        IA,
        r"inputs\.tokens.*24 bytes.*multiple of 16",
    ),
    (
        "row and scales too long",
        forward(lambda d: {"scales": d.array((b, 33), np.float32)}),
        IA,
        r"inputs\.tokens.*32 bytes and its scales 132, expected at most 160 = max_token_bytes",
    ),
    (
        "no output scales",
        forward(outputs=lambda d: {"scales": None}),
        IA,
        r"outputs\.scales.*NULL.*expected a tensor",
    ),
    (
        "type of output scales",
        forward(outputs=lambda d: {"scales": d.array((E, B, 4), np.float16)}),
        IA,
        r"outputs\.scales.*float16.*expected float32",
    ),
    (
        "width of output scales",
        forward(outputs=lambda d: {"scales": d.array((E, B, 5), np.float32)}),
        IA,
        r"outputs\.scales.*extent 2 is 5.*expected 4 = scales of a row of inputs\.scales",
    ),
    (
        "output type",
        forward(outputs=lambda d: {"tokens": d.array((E, B, H), ml_dtypes.float8_e5m2)}),
        IA,
        r"outputs\.tokens.*float8e5m2.*expected float8e4m3",
    ),
    ("round_scales", forward(round_scales=1), IA, r"round_scales.*is set, expected 0 unless.*DS_FP8E3M4"),
)
def test_rows_of_the_caller(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act, max_token_bytes=MAX_TOKEN_BYTES), error, says)


@table(
    (
        "scales",
        quantized(lambda d: {"scales": d.array((b, 1), np.float32)}),
        IA,
        r"inputs\.scales.*expected NULL.*makes the scales",
    ),
    (
        "tokens of fp16",
        quantized(lambda d: {"tokens": d.array((b, HIDDEN), np.float16)}),
        IA,
        r"inputs\.tokens.*float16.*expected bfloat16",
    ),
    (
        "hidden",
        quantized(lambda d: {"tokens": d.array((b, H), BF16)}),
        IA,
        r"inputs\.tokens.*extent 1 is 32, expected a positive multiple of 128",
    ),
    (
        "row too long",
        quantized(lambda d: {"tokens": d.array((b, 2 * HIDDEN), BF16)}),
        IA,
        r"inputs\.tokens.*256 float8e4m3 has 256 bytes and its scales 8, expected at most 160",
    ),
    (
        "output type",
        quantized(outputs=lambda d: {"tokens": d.array((E, B, HIDDEN), BF16)}),
        IA,
        r"outputs\.tokens.*bfloat16.*expected float8e4m3",
    ),
    (
        "output scales",
        quantized(outputs=lambda d: {"scales": d.array((E, B, 2), np.float32)}),
        IA,
        r"outputs\.scales.*extent 2 is 2.*expected 1 = hidden of inputs\.tokens / 128",
    ),
    ("no output scales", quantized(outputs=lambda d: {"scales": None}), IA, r"outputs\.scales.*NULL"),
)
def test_rows_that_dispatch_quantizes(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act, max_token_bytes=MAX_TOKEN_BYTES), error, says)


def combined(inputs: Change = lambda d: {}, hidden: int = HIDDEN) -> Act:
    """A combine of bf16 rows that travel as FP8, with these changes."""

    def act(d: Desk) -> None:
        outputs = d.combine_outputs(tokens=d.array((b, hidden), BF16))
        d.handle_to_combine().combine(
            d.combine_inputs(**({"tokens": d.array((E, B, hidden), BF16)} | inputs(d))),
            outputs,
            config=ep.CombineConfig(quantization_recipe=ep.CombineQuantizationRecipe.FP8),
        )

    return act


@table(
    (
        "scales",
        combined(lambda d: {"scales": d.array((E, B, 1), np.float32)}),
        IA,
        r"inputs\.scales.*expected NULL.*makes the scales",
    ),
    (
        "type",
        combined(lambda d: {"tokens": d.array((E, B, HIDDEN), np.float16)}),
        IA,
        r"inputs\.tokens.*float16.*expected bfloat16",
    ),
    ("hidden", combined(hidden=H), IA, r"inputs\.tokens.*hidden is 32, expected a positive multiple of 128"),
)
def test_rows_that_combine_quantizes(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act, max_token_bytes=2 * HIDDEN), error, says)


def returned(inputs: Change = lambda d: {}, hidden: int = HIDDEN) -> Act:
    """A combine of bf16 rows that travel as NVFP4, with these changes."""

    def act(d: Desk) -> None:
        zone = (E, B) if d.layout is EM else (1, B)
        good = {"tokens": d.array((*zone, hidden), BF16), "scales": d.array((*zone, 1), np.float32)}
        d.handle_to_combine().combine(
            d.combine_inputs(**(good | inputs(d))),
            d.combine_outputs(tokens=d.array((b, hidden), BF16)),
            config=ep.CombineConfig(quantization_recipe=ep.CombineQuantizationRecipe.NVFP4),
        )

    return act


def askew_global(d: Desk) -> ep.Tensor:
    memory = ep.Tensor(d.array((100,), np.uint8))
    return ep.Tensor(memory.ptr + 2, dtype="float32", shape=(E, B, 1))


@table(
    ("no scales", returned(lambda d: {"scales": None}), IA, r"inputs\.scales.*is NULL, expected a tensor"),
    (
        "type of scales",
        returned(lambda d: {"scales": d.array((E, B, 1), np.float16)}),
        IA,
        r"inputs\.scales.*datatype is float16 .*expected float32",
    ),
    (
        "scales 2D",
        returned(lambda d: {"scales": d.array((E, B), np.float32)}),
        IA,
        r"inputs\.scales.*has 2 dimensions, expected 3",
    ),
    (
        "scales of other experts",
        returned(lambda d: {"scales": d.array((E + 1, B, 1), np.float32)}),
        IA,
        r"inputs\.scales.*extent 0 is 5, expected 4 = local experts",
    ),
    (
        "scales of other rows",
        returned(lambda d: {"scales": d.array((E, B - 1, 1), np.float32)}),
        IA,
        r"inputs\.scales.*extent 1 is 3, expected 4 = ranks x max_dispatch_tokens_per_rank",
    ),
    (
        "two scales",
        returned(lambda d: {"scales": d.array((E, B, 2), np.float32)}),
        IA,
        r"inputs\.scales.*extent 2 is 2, expected 1 = the global scale of a row",
    ),
    (
        "scales askew",
        returned(lambda d: {"scales": askew_global(d)}),
        IA,
        r"inputs\.scales.*2 bytes past a multiple of 4",
    ),
    (
        "type",
        returned(lambda d: {"tokens": d.array((E, B, HIDDEN), np.float16)}),
        IA,
        r"inputs\.tokens.*datatype is float16 .*expected bfloat16",
    ),
    (
        "tokens 2D",
        returned(lambda d: {"tokens": d.array((E, HIDDEN), BF16)}),
        IA,
        r"inputs\.tokens.*hidden is 0, expected a positive multiple of 32",
    ),
    (
        "hidden",
        returned(hidden=48),
        IA,
        r"inputs\.tokens.*hidden is 48, expected a positive multiple of 32, whose numbers are 16 bytes in",
    ),
    ("row too long", returned(hidden=2 * HIDDEN), IA, r"inputs\.tokens.*512 bytes, expected at most 256"),
)
def test_rows_that_combine_sends_as_nvfp4(
    make_cluster: Any, act: Act, error: type[ep.Error], says: str
) -> None:
    expect(refused(make_cluster, EM, act, max_token_bytes=2 * HIDDEN), error, says)


def test_global_scales_of_rank_major_rows(make_cluster: Any) -> None:
    act = returned(lambda d: {"scales": d.array((E, B, 1), np.float32)})
    expect(
        refused(make_cluster, RM, act, max_token_bytes=2 * HIDDEN),
        IA,
        r"inputs\.scales.*extent 0 is 4, expected 1 = ranks",
    )


def test_nvfp4_rows_with_exact_sums(make_cluster: Any) -> None:
    config = {"max_token_bytes": 2 * HIDDEN, "exact_combine": True, "num_topk": 2}
    expect(
        refused(make_cluster, EM, returned(), **config),
        IU,
        r"config\.quant_recipe: is 1, expected NCCL_EP_COMB_QUANT_NONE \(0\): .* not available here",
    )


@pytest.mark.parametrize(
    ("act", "layout", "says"),
    [(forward(), EM, r"outputs\.tokens.*expert-major"), (quantized(), RM, r"quant_recipe.*no zero copy")],
    ids=["expert-major", "quantized"],
)
def test_zero_copy_that_cannot_be(make_cluster: Any, act: Act, layout: ep.Layout, says: str) -> None:
    config = {"max_token_bytes": MAX_TOKEN_BYTES, "zero_copy": ep.ZeroCopyMode.ON}
    expect(refused(make_cluster, layout, act, **config), IA, says)

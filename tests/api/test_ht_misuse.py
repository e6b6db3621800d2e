# SPDX-License-Identifier: Apache-2.0
"""What High Throughput cannot do: the code, and a message that says why. Nothing is launched or written."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import misuse
import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest
from misuse import BF16, IA, IU, Act, E, H, K, b, combine, dispatch, expect, table, update

EM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.FLAT
BWD = ep.PassDir.BWD
E4M3 = ml_dtypes.float8_e4m3fn
M = 12  # rows of an output
ROWS = 3  # that arrive: every token goes to expert 0
POISON = 7


class Desk(misuse.Desk):
    """Of High Throughput. Outputs must stay poisoned when a call is refused."""

    CONFIG: ClassVar[dict[str, Any]] = {
        **misuse.Desk.CONFIG,
        "algorithm": ep.Algorithm.HIGH_THROUGHPUT,
        "max_recv_tokens_per_rank": M,
        "num_topk": K,
    }

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        super().__init__(rank, group, layout)
        self.received = self.poisoned((M, H), BF16)
        self.received_weights = self.poisoned((M,) if layout is EM else (M, K), np.float32)
        self.received_idx = self.poisoned((M, K), np.int64)

    def poisoned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.rank.array(np.full(shape, POISON, dtype))

    def outputs_of_a_refused_call(self) -> list[tuple[Any, int]]:
        return [(output, POISON) for output in (self.received, self.received_weights, self.received_idx)]

    def inputs(self, **changes: Any) -> ep.DispatchInputs:
        return ep.DispatchInputs(**({"tokens": self.tokens, "topk_weights": self.weights} | changes))

    def outputs(self, **changes: Any) -> ep.DispatchOutputs:
        good = {"tokens": self.received, "topk_weights": self.received_weights}
        good |= {} if self.layout is EM else {"topk_idx": self.received_idx}
        return ep.DispatchOutputs(**(good | changes))


refused = partial(misuse.refused, Desk)
EAGER = {"max_recv_tokens_per_rank": 0}
BOTH = pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])


# ---- Handles ----


@table(
    *misuse.HANDLE,
    (
        "rank-major",
        lambda d: d.group.init_handle(ep.Layout.RANK_MAJOR, K),
        IA,
        r"layout.*2.*EXPERT_MAJOR.*FLAT",
    ),
    ("topk 0", lambda d: d.group.init_handle(EM, 0), IU, r"num_topk.*\b0\b.*expected 1 to 2"),
    ("topk -1", lambda d: d.group.init_handle(EM, -1), IU, r"num_topk.*-1.*expected 1 to 2"),
    ("topk 3", lambda d: d.group.init_handle(EM, 3), IU, r"num_topk.*\b3\b.*1 to 2 = config\.num_topk"),
    ("size: layout", lambda d: d.group.handle_mem_size(ep.Layout.RANK_MAJOR, K), IA, r"layout.*2.*expected"),
    ("size: topk", lambda d: d.group.handle_mem_size(FLAT, 0), IU, r"num_topk.*\b0\b.*expected"),
    (
        "flat alignment",
        lambda d: d.group.init_handle(FLAT, K, config=ep.HandleConfig(8)),
        IU,
        r"dispatch_output_per_expert_alignment.*8.*expected 0 or 1",
    ),
    (
        "huge alignment",
        lambda d: d.group.init_handle(EM, K, config=ep.HandleConfig(1 << 40)),
        IA,
        r"dispatch_output_per_expert_alignment.*expected at most",
    ),
)
def test_a_handle(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


def test_an_expert_major_handle_without_budget_and_topk(make_cluster: Any) -> None:
    failure = refused(make_cluster, FLAT, lambda d: d.group.init_handle(EM, K), num_topk=0, **EAGER)
    expect(failure, IU, r"config\.num_topk.*0.*expected.*max_recv_tokens_per_rank")


# ---- Routings ----


COMMON_UPDATE = (
    *misuse.ROUTING,
    (
        "source counters",
        update(src_rank_counters=((1,), np.int32)),
        IA,
        r"layout_info\.src_rank_counters.*expected NULL",
    ),
    ("short counters", update(expert_counters=((E - 1,), np.int32)), IA, r"expert_counters.*3.*at least 4"),
    ("float total", update(recv_total_counter=((1,), np.float32)), IA, r"recv_total_counter.*float32.*int32"),
    ("no total", update(recv_total_counter=((0,), np.int32)), IA, r"recv_total_counter.*0.*at least 1"),
    ("2D total", update(recv_total_counter=((1, 1), np.int32)), IA, r"recv_total_counter.*2 dim.*expected 1"),
)


@table(
    *COMMON_UPDATE,
    (
        "wide counters",
        update(expert_counters=((E,), np.int64)),
        IA,
        r"layout_info\.expert_counters.*int64.*expected int32",
    ),
    ("offsets", update(expert_offsets=((E,), np.int32)), IA, r"layout_info\.expert_offsets.*expected NULL"),
)
def test_a_flat_routing(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, FLAT, act), error, says)


@table(
    *COMMON_UPDATE,
    ("short offsets", update(expert_offsets=((E - 1,), np.int32)), IA, r"expert_offsets.*3.*at least 4"),
    (
        "mixed widths",
        update(expert_counters=((E,), np.int64), expert_offsets=((E,), np.int32)),
        IA,
        r"layout_info\.expert_offsets.*int32.*expected int64",
    ),
    (
        "mixed total",
        update(expert_offsets=((E,), np.int32), recv_total_counter=((1,), np.int64)),
        IA,
        r"layout_info\.recv_total_counter.*int64.*expected int32",
    ),
)
def test_an_expert_major_routing(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Dispatch ----


def rows_only(d: Desk, **changes: Any) -> ep.DispatchInputs:
    return ep.DispatchInputs(**({"tokens": d.tokens} | changes))


def rows_only_out(d: Desk, **changes: Any) -> ep.DispatchOutputs:
    return ep.DispatchOutputs(**({"tokens": d.received} | changes))


COMMON_DISPATCH = (
    *misuse.DISPATCH,
    *misuse.DISPATCH_WEIGHTS,
    (
        "output hidden",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((M, H - 8), BF16))),
        IA,
        r"outputs\.tokens.*extent 1 is 24.*expected 32",
    ),
    (
        "output 3D",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((1, M, H), BF16))),
        IA,
        r"outputs\.tokens.*3 dimensions.*expected 2",
    ),
    (
        "short output",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((M - 1, H), BF16))),
        IA,
        r"outputs\.tokens.*extent 0 is 11.*expected at least 12 = max_recv_tokens_per_rank",
    ),
    (
        "backward with weights",
        dispatch(pass_direction=BWD),
        IA,
        r"inputs\.topk_weights.*expected NULL.*backward",
    ),
    (
        "backward with output weights",
        dispatch(rows_only, lambda d: rows_only_out(d, topk_weights=d.received_weights), pass_direction=BWD),
        IA,
        r"outputs\.topk_weights.*expected NULL.*backward",
    ),
    (
        "backward with ids",
        dispatch(rows_only, lambda d: rows_only_out(d, topk_idx=d.received_idx), pass_direction=BWD),
        IA,
        r"outputs\.topk_idx.*expected NULL.*backward",
    ),
)


@table(
    *COMMON_DISPATCH,
    ("no ids", dispatch(outputs=lambda d: d.outputs(topk_idx=None)), IA, r"outputs\.topk_idx.*NULL.*tensor"),
    (
        "narrow ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=d.array((M, K), np.int32))),
        IA,
        r"outputs\.topk_idx.*int32.*expected int64",
    ),
    (
        "short ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=d.array((M - 1, K), np.int64))),
        IA,
        r"outputs\.topk_idx.*extent 0 is 11.*expected at least 12",
    ),
    (
        "weights 1D",
        dispatch(outputs=lambda d: d.outputs(topk_weights=d.array((M,), np.float32))),
        IA,
        r"outputs\.topk_weights.*1 dim.*expected 2",
    ),
)
def test_a_flat_dispatch(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, FLAT, act), error, says)


@table(
    *COMMON_DISPATCH,
    (
        "ids",
        dispatch(outputs=lambda d: d.outputs(topk_idx=d.received_idx)),
        IA,
        r"outputs\.topk_idx.*expected NULL",
    ),
    (
        "weights 2D",
        dispatch(outputs=lambda d: d.outputs(topk_weights=d.array((M, K), np.float32))),
        IA,
        r"outputs\.topk_weights.*2 dim.*expected 1",
    ),
    (
        "short weights",
        dispatch(outputs=lambda d: d.outputs(topk_weights=d.array((M - 1,), np.float32))),
        IA,
        r"outputs\.topk_weights.*extent 0 is 11.*expected at least 12",
    ),
)
def test_an_expert_major_dispatch(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Dispatch with scales ----


FWD, DS = ep.DispatchQuantizationRecipe.FWD, ep.DispatchQuantizationRecipe.DS_FP8E3M4
WIDE = {"max_token_bytes": 512}


def scaled(
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    recipe: int = FWD,
    **config: Any,
) -> Act:
    """Dispatch of good E4M3 rows of 128 with two scales, some of which are changed."""
    good_in = {"tokens": ((b, 128), E4M3), "scales": ((b, 2), np.float32)}
    good_out = {"tokens": ((M, 128), E4M3), "scales": ((M, 2), np.float32)}
    if recipe == DS:
        good_in = {"tokens": ((b, 128), BF16)}
        good_out["scales"] = ((M, 1), np.float32)

    def act(d: Desk) -> None:
        def arrays(wanted: dict[str, Any]) -> dict[str, Any]:
            return {
                name: d.array(*what) if isinstance(what, tuple) else what for name, what in wanted.items()
            }

        ins = d.inputs(**arrays(good_in | (inputs or {})))
        outs = d.outputs(**arrays(good_out | (outputs or {})))
        options = ep.DispatchConfig(quantization_recipe=recipe, **config)
        d.handle().dispatch(ins, outs, config=options)

    return act


@table(
    ("no scales", scaled({"scales": None}), IA, r"inputs\.scales.*NULL.*expected a tensor"),
    (
        "no place for scales",
        scaled(outputs={"scales": None}),
        IA,
        r"outputs\.scales.*NULL.*expected a tensor",
    ),
    ("type", scaled({"tokens": ((b, 128), np.uint8)}), IA, r"inputs\.tokens.*uint8.*expected.*float8e4m3"),
    ("scale type", scaled({"scales": ((b, 2), np.int32)}), IA, r"inputs\.scales.*int32.*expected float32"),
    ("scales 1D", scaled({"scales": ((b,), np.float32)}), IA, r"inputs\.scales.*1 dim.*expected 2"),
    ("fewer scales", scaled({"scales": ((b - 1, 2), np.float32)}), IA, r"inputs\.scales.*0 is 2.*expected 3"),
    (
        "empty scales",
        scaled({"scales": ((b, 0), np.float32)}),
        IA,
        r"inputs\.scales.*extent 1 is 0.*at least 1",
    ),
    (
        "output scale type",
        scaled(outputs={"scales": ((M, 2), np.float16)}),
        IA,
        r"outputs\.scales.*float16.*expected float32",
    ),
    (
        "output width",
        scaled(outputs={"scales": ((M, 3), np.float32)}),
        IA,
        r"outputs\.scales.*1 is 3.*expected 2",
    ),
    (
        "output rows",
        scaled(outputs={"scales": ((M + 1, 2), np.float32)}),
        IA,
        r"outputs\.scales.*extent 0 is 13.*expected 12 = rows of outputs\.tokens",
    ),
    (
        "too wide together",
        scaled({"scales": ((b, 97), np.float32)}),
        IA,
        r"inputs\.tokens.*128 bytes.*scales 388.*at most 512 = max_token_bytes",
    ),
    ("rounded", scaled(round_scales=1), IA, r"round_scales.*is set.*DS_FP8E3M4"),
    (
        "given scales",
        scaled({"scales": ((b, 1), np.float32)}, recipe=DS),
        IA,
        r"inputs\.scales.*expected NULL",
    ),
    (
        "quantized fp16",
        scaled({"tokens": ((b, 128), np.float16)}, recipe=DS),
        IA,
        r"tokens.*float16.*bfloat16",
    ),
    ("hidden", scaled({"tokens": ((b, 64), BF16)}, recipe=DS), IA, r"extent 1 is 64.*multiple of 128"),
    (
        "quantized into bf16",
        scaled(outputs={"tokens": ((M, 128), BF16)}, recipe=DS),
        IA,
        r"outputs\.tokens.*bfloat16.*expected float8e4m3",
    ),
)
def test_scales(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, FLAT, act, **WIDE), error, says)


@BOTH
@pytest.mark.parametrize("name", ["tokens", "scales"])
def test_a_window_for_rows_or_scales_alone(make_cluster: Any, layout: ep.Layout, name: str) -> None:
    def act(d: Desk) -> None:
        width, dtype = {"tokens": (128, E4M3), "scales": (2, np.float32)}[name]
        memory, window = d.rank.symmetric(np.zeros((M, width), dtype))
        scaled(outputs={name: ep.Tensor(memory, window=window)})(d)

    says = "has no window" if name == "tokens" else "has a window"
    expect(refused(make_cluster, layout, act, **WIDE), IA, rf"outputs\.scales.*{says}.*outputs\.tokens")


@BOTH
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_scales_at_an_odd_place(make_cluster: Any, layout: ep.Layout, side: str) -> None:
    def act(d: Desk) -> None:
        rows = b if side == "inputs" else M
        odd = ep.Tensor(
            ep.Tensor(d.array((rows + 4, 2), np.float32)).ptr + 8, dtype=np.float32, shape=(rows, 2)
        )
        scaled(**{side: {"scales": odd}})(d)

    expect(refused(make_cluster, layout, act, **WIDE), IA, rf"{side}\.scales.*multiple of 16")


@BOTH
@pytest.mark.sim_only  # CUDA's driver crashes
def test_a_stream_that_is_none(make_cluster: Any, layout: ep.Layout) -> None:
    expect(refused(make_cluster, layout, misuse.on_no_stream), IA, misuse.NO_STREAM)


@BOTH
def test_zero_copy_without_a_window(make_cluster: Any, layout: ep.Layout) -> None:
    failure = refused(make_cluster, layout, dispatch(), zero_copy=ep.ZeroCopyMode.ON)
    expect(failure, IA, r"outputs\.tokens.*no window.*zero_copy ON")
    failure = refused(make_cluster, layout, combine(), zero_copy=ep.ZeroCopyMode.ON)
    expect(failure, IA, r"inputs\.tokens.*no window.*zero_copy ON")


@BOTH
def test_an_output_in_a_window_at_an_odd_place(make_cluster: Any, layout: ep.Layout) -> None:
    def act(d: Desk) -> None:
        memory, window = d.rank.symmetric(np.zeros((M + 1, H), BF16))
        tokens = ep.Tensor(memory[:M], window=window, window_offset=8)
        d.handle().dispatch(d.inputs(), d.outputs(tokens=tokens))

    expect(refused(make_cluster, layout, act), IA, r"outputs\.tokens.*win_offset is 8.*multiple of 16")


# ---- Combine ----


def gradients(d: Desk, shape: Any = None, dtype: Any = np.float32) -> ep.CombineInputs:
    return d.combine_inputs(topk_weights=d.array(shape, dtype) if shape else d.received_weights)


def gradients_out(d: Desk, shape: Any = (b, K)) -> ep.CombineOutputs:
    return d.combine_outputs(topk_weights=d.array(shape, np.float32))


def backward(inputs: Act = gradients, outputs: Act = gradients_out) -> Act:
    return combine(inputs, outputs, pass_direction=BWD)


COMMON_COMBINE = (
    (
        "recipe",
        combine(quantization_recipe=1),
        IU,
        r"quant_recipe: is .*NVFP4 \(1\), expected .*NONE \(0\) or .*FP8 \(2\): this version .* Low Latency",
    ),
    *misuse.COMBINE,
    (
        "tokens 3D",
        combine(lambda d: d.combine_inputs(tokens=d.array((1, M, H), BF16))),
        IA,
        r"inputs\.tokens.*3 dim.*expected 2",
    ),
    (
        "fewer rows than have come",
        combine(lambda d: d.combine_inputs(tokens=d.array((ROWS - 1, H), BF16))),
        IA,
        r"inputs\.tokens.*extent 0 is 2.*expected at least 3 = rows that this rank has received",
    ),
    ("forward with gradients", combine(gradients), IA, r"inputs\.topk_weights.*expected NULL.*forward"),
    (
        "backward without gradients",
        backward(lambda d: d.combine_inputs()),
        IA,
        r"inputs\.topk_weights.*NULL.*expected",
    ),
    (
        "backward without a place for gradients",
        backward(outputs=lambda d: d.combine_outputs()),
        IA,
        r"outputs\.topk_weights.*NULL.*expected",
    ),
    (
        "gradients' type",
        backward(lambda d: gradients(d, (M, K), np.float64)),
        IA,
        r"inputs\.topk_weights.*float64.*expected float32",
    ),
    (
        "output gradients' shape",
        backward(outputs=lambda d: gradients_out(d, (b, 1))),
        IA,
        r"outputs\.topk_weights.*extent 1 is 1.*expected 2",
    ),
)


@table(
    *COMMON_COMBINE,
    (
        "gradients 1D",
        backward(lambda d: gradients(d, (M,))),
        IA,
        r"inputs\.topk_weights.*1 dim.*expected 2",
    ),
)
def test_a_flat_combine(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, FLAT, act), error, says)


@table(
    *COMMON_COMBINE,
    (
        "gradients 2D",
        backward(lambda d: gradients(d, (M, K))),
        IA,
        r"inputs\.topk_weights.*2 dim.*expected 1",
    ),
)
def test_an_expert_major_combine(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


# ---- Without a budget ----


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (EM, "tokens"),
        (EM, "topk_weights"),
        (FLAT, "tokens"),
        (FLAT, "topk_weights"),
        (FLAT, "topk_idx"),
    ],
    ids=str,
)
def test_outputs_shorter_than_what_arrives(make_cluster: Any, layout: ep.Layout, name: str) -> None:
    def act(d: Desk) -> None:
        good = {"tokens": d.received, "topk_weights": d.received_weights, "topk_idx": d.received_idx}
        d.handle().dispatch(d.inputs(), d.outputs(**{name: good[name][: ROWS - 1]}))

    failure = refused(make_cluster, layout, act, **EAGER)
    expect(failure, IA, rf"outputs\.{name}.*extent 0 is 2.*at least 3 = rows that this rank receives")


@BOTH
def test_a_captured_dispatch(make_cluster: Any, layout: ep.Layout) -> None:
    def act(d: Desk) -> None:
        handle = d.handle()
        d.rank.synchronize()
        with d.rank.capture() as graph:
            handle.dispatch(d.inputs(), d.outputs(), stream=graph.stream)

    expect(refused(make_cluster, layout, act, **EAGER), IU, r"capturing.*max_recv_tokens_per_rank")


@BOTH
def test_a_captured_combine_of_fewer_rows_than_the_host_knows_of(
    make_cluster: Any, layout: ep.Layout
) -> None:
    def act(d: Desk) -> None:
        handle = d.handle()
        d.rank.synchronize()
        with d.rank.capture() as graph:
            handle.combine(
                d.combine_inputs(tokens=d.received[: ROWS - 1]), d.combine_outputs(), stream=graph.stream
            )

    expected = r"inputs\.tokens.*extent 0 is 2.*at least 3 = rows that this rank has received"
    expect(refused(make_cluster, layout, act, **EAGER), IA, expected)


# ---- Ignored ----


@BOTH
def test_send_only_is_ignored(make_cluster: Any, layout: ep.Layout) -> None:
    def main(rank: Any) -> None:
        with ep.Group(rank.comm, ep.GroupConfig(**Desk.CONFIG)) as group:
            desk = Desk(rank, group, layout)
            handle = desk.handle()
            send_only = ep.DispatchConfig(send_only=True), ep.CombineConfig(send_only=True)
            handle.dispatch(desk.inputs(), desk.outputs(), config=send_only[0])
            handle.update(desk.topk_idx)
            handle.combine(desk.combine_inputs(), desk.combine_outputs(), config=send_only[1])
            handle.complete()
            assert (rank.read(desk.received)[:ROWS] == 0).all()

    make_cluster(1).run(main)

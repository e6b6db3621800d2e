# SPDX-License-Identifier: Apache-2.0
"""What High Throughput cannot do: the code, and a message that says why. Nothing is launched or written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest

EM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.FLAT
BF16 = ml_dtypes.bfloat16
BWD = ep.PassDir.BWD
IA, IU = ep.InvalidArgument, ep.InvalidUsage
E, B, b, K, H, M = 4, 4, 3, 2, 32, 12  # one rank: R = 1, L = E
ROWS = 3  # that arrive: every token goes to expert 0
POISON = 7


class Desk:
    """One rank with a group and well-formed tensors; a test spoils one of them."""

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        self.rank, self.group, self.layout = rank, group, layout
        self.topk_idx = self.array((b, K), np.int64)
        self.tokens = self.array((b, H), BF16)
        self.weights = self.array((b, K), np.float32)
        self.received = self.poisoned((M, H), BF16)
        self.received_weights = self.poisoned((M,) if layout is EM else (M, K), np.float32)
        self.received_idx = self.poisoned((M, K), np.int64)
        self.counters = self.array((E,), np.int32)
        self.total = self.array((1,), np.int32)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.rank.array(np.zeros(shape, dtype))

    def poisoned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.rank.array(np.full(shape, POISON, dtype))

    def handle(self) -> ep.Handle:
        return self.group.create_handle(self.layout, self.topk_idx)

    def inputs(self, **changes: Any) -> ep.DispatchInputs:
        return ep.DispatchInputs(**({"tokens": self.tokens, "topk_weights": self.weights} | changes))

    def outputs(self, **changes: Any) -> ep.DispatchOutputs:
        good = {"tokens": self.received, "topk_weights": self.received_weights}
        good |= {} if self.layout is EM else {"topk_idx": self.received_idx}
        return ep.DispatchOutputs(**(good | changes))

    def combine_inputs(self, **changes: Any) -> ep.CombineInputs:
        return ep.CombineInputs(**({"tokens": self.received} | changes))

    def combine_outputs(self, **changes: Any) -> ep.CombineOutputs:
        return ep.CombineOutputs(**({"tokens": self.tokens} | changes))


Act = Callable[[Desk], Any]


def refused(make_cluster: Any, layout: ep.Layout, act: Act, budget: int = M, **config: Any) -> ep.Error:
    """The error that ``act`` ends in. Outputs must be untouched, and the group work as before."""

    def main(rank: Any) -> ep.Error:
        fields = {
            "algorithm": ep.Algorithm.HIGH_THROUGHPUT,
            "num_experts": E,
            "max_dispatch_tokens_per_rank": B,
            "max_recv_tokens_per_rank": budget,
            "max_token_bytes": 2 * H,
            "num_topk": K,
        }
        with ep.Group(rank.comm, ep.GroupConfig(**(fields | config))) as group:
            desk = Desk(rank, group, layout)
            with pytest.raises(ep.Error) as failure:
                act(desk)
            for untouched in (desk.received, desk.received_weights, desk.received_idx):
                assert (rank.read(untouched) == POISON).all()
            assert group.async_error() == 0
            if not config:
                works(desk)
            return failure.value

    return make_cluster(1).run(main)[0]


def works(desk: Desk) -> None:
    with desk.handle() as handle:
        handle.complete()
        handle.dispatch(desk.inputs(), desk.outputs())
        handle.combine(desk.combine_inputs(), desk.combine_outputs())
        desk.rank.synchronize()


def expect(failure: ep.Error, error: type[ep.Error], says: str) -> None:
    assert type(failure) is error, failure
    assert re.search(says, failure.message), failure.message


def table(*rows: tuple[Any, ...]) -> Any:
    """Parametrizes a test by rows of (name, act, error, message)."""
    return pytest.mark.parametrize(
        ("act", "error", "says"), [pytest.param(*row[1:], id=row[0]) for row in rows]
    )


BOTH = pytest.mark.parametrize("layout", [EM, FLAT], ids=["expert-major", "flat"])


# ---- Handles ----


@table(
    ("unset", lambda d: d.group.init_handle(ep.Layout.UNSET, K), IA, r"layout.*0.*expected"),
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
        "alignment 3",
        lambda d: d.group.init_handle(EM, K, config=ep.HandleConfig(3)),
        IA,
        r"dispatch_output_per_expert_alignment.*3.*power of two",
    ),
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
    (
        "small memory",
        lambda d: d.group.init_handle(
            EM, K, handle_mem=d.array((d.group.handle_mem_size(EM, K) - 1,), np.uint8)
        ),
        IA,
        r"handle_mem.*expected at least",
    ),
    (
        "memory type",
        lambda d: d.group.init_handle(EM, K, handle_mem=d.array((100_000,), np.int8)),
        IA,
        r"handle_mem.*int8.*expected uint8",
    ),
)
def test_a_handle(make_cluster: Any, act: Act, error: type[ep.Error], says: str) -> None:
    expect(refused(make_cluster, EM, act), error, says)


def test_an_expert_major_handle_without_budget_and_topk(make_cluster: Any) -> None:
    failure = refused(make_cluster, FLAT, lambda d: d.group.init_handle(EM, K), budget=0, num_topk=0)
    expect(failure, IU, r"config\.num_topk.*0.*expected.*max_recv_tokens_per_rank")


# ---- Routings ----


def update(shape: tuple[int, ...] = (b, K), dtype: Any = np.int64, **info: Any) -> Act:
    """Gives a good handle a routing of this shape and type, and asks for these counters."""
    return lambda d: d.handle().update(
        d.array(shape, dtype),
        layout_info=ep.LayoutInfo(**{name: d.array(*counter) for name, counter in info.items()}),
    )


COMMON_UPDATE = (
    ("1D", update((6,)), IA, r"topk_idx.*1 dimension.*expected 2"),
    ("float", update(dtype=np.float32), IA, r"topk_idx.*float32.*expected int32 or int64"),
    ("another K", update((b, 1)), IA, r"topk_idx.*extent 1 is 1.*expected 2"),
    ("too many tokens", update((B + 1, K)), IA, r"topk_idx.*extent 0 is 5.*expected at most 4"),
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


def dispatch(inputs: Act = lambda d: d.inputs(), outputs: Act = lambda d: d.outputs(), **config: Any) -> Act:
    """A dispatch of a good handle with these tensors."""
    return lambda d: d.handle().dispatch(inputs(d), outputs(d), config=ep.DispatchConfig(**config))


def misaligned(d: Desk) -> ep.Tensor:
    raw = d.array((4 * B * H * 2 + 16,), np.uint8)
    return ep.Tensor(ep.Tensor(raw).ptr + 8, dtype="bfloat16", shape=(b, H))


def rows_only(d: Desk, **changes: Any) -> ep.DispatchInputs:
    return ep.DispatchInputs(**({"tokens": d.tokens} | changes))


def rows_only_out(d: Desk, **changes: Any) -> ep.DispatchOutputs:
    return ep.DispatchOutputs(**({"tokens": d.received} | changes))


COMMON_DISPATCH = (
    ("recipe", dispatch(quantization_recipe=1), IU, r"quant_recipe.*1.*not available"),
    ("low-latency recipe", dispatch(quantization_recipe=2), IA, r"quant_recipe.*High Throughput.*expected"),
    ("round_scales", dispatch(round_scales=1), IA, r"round_scales.*expected 0"),
    ("direction", dispatch(pass_direction=2), IA, r"pass_direction.*2.*expected"),
    ("tokens 1D", dispatch(lambda d: d.inputs(tokens=d.array((H,), BF16))), IA, r"inputs\.tokens.*1 dim.*2"),
    (
        "tokens of int",
        dispatch(lambda d: d.inputs(tokens=d.array((b, H), np.int32))),
        IA,
        r"inputs\.tokens.*int32.*expected bfloat16 or float16 or float32",
    ),
    (
        "more tokens than routes",
        dispatch(lambda d: d.inputs(tokens=d.array((b + 1, H), BF16))),
        IA,
        r"inputs\.tokens.*extent 0 is 4.*expected 3",
    ),
    (
        "row of 24 bytes",
        dispatch(lambda d: d.inputs(tokens=d.array((b, 12), BF16))),
        IA,
        r"inputs\.tokens.*24 bytes.*multiple of 16",
    ),
    (
        "row too long",
        dispatch(lambda d: d.inputs(tokens=d.array((b, 2 * H), BF16))),
        IA,
        r"inputs\.tokens.*128 bytes.*at most 64 = max_token_bytes",
    ),
    ("misaligned", dispatch(lambda d: d.inputs(tokens=misaligned(d))), IA, r"inputs\.tokens.*multiple of 16"),
    ("scales", dispatch(lambda d: d.inputs(scales=d.weights)), IA, r"inputs\.scales.*expected NULL"),
    ("output scales", dispatch(outputs=lambda d: d.outputs(scales=d.weights)), IA, r"outputs\.scales.*NULL"),
    (
        "no weights",
        dispatch(lambda d: d.inputs(topk_weights=None)),
        IA,
        r"inputs\.topk_weights.*NULL.*tensor",
    ),
    (
        "weights type",
        dispatch(lambda d: d.inputs(topk_weights=d.array((b, K), np.float16))),
        IA,
        r"inputs\.topk_weights.*float16.*expected float32",
    ),
    (
        "weights shape",
        dispatch(lambda d: d.inputs(topk_weights=d.array((b, K + 1), np.float32))),
        IA,
        r"inputs\.topk_weights.*extent 1 is 3.*expected 2",
    ),
    (
        "weights of no token",
        dispatch(lambda d: d.inputs(topk_weights=d.array((0, K), np.float32))),
        IA,
        r"inputs\.topk_weights.*extent 0 is 0.*expected 3",
    ),
    (
        "output type",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array((M, H), np.float16))),
        IA,
        r"outputs\.tokens.*float16.*expected bfloat16",
    ),
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
        "no output weights",
        dispatch(outputs=lambda d: d.outputs(topk_weights=None)),
        IA,
        r"outputs\.topk_weights.*NULL.*expected",
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
    (
        "no routing",
        lambda d: d.group.init_handle(d.layout, K).dispatch(d.inputs(), d.outputs()),
        IU,
        r"no routing.*expected ncclEpUpdateHandle",
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


@BOTH
def test_zero_copy_without_a_window(make_cluster: Any, layout: ep.Layout) -> None:
    failure = refused(make_cluster, layout, dispatch(), zero_copy=ep.ZeroCopyMode.ON)
    expect(failure, IA, r"outputs\.tokens.*no window.*zero_copy ON")
    act = lambda d: d.handle().combine(d.combine_inputs(), d.combine_outputs())  # noqa: E731
    failure = refused(make_cluster, layout, act, zero_copy=ep.ZeroCopyMode.ON)
    expect(failure, IA, r"inputs\.tokens.*no window.*zero_copy ON")


@BOTH
def test_an_output_in_a_window_at_an_odd_place(make_cluster: Any, layout: ep.Layout) -> None:
    def act(d: Desk) -> None:
        memory, window = d.rank.symmetric(np.zeros((M + 1, H), BF16))
        tokens = ep.Tensor(memory[:M], window=window, window_offset=8)
        d.handle().dispatch(d.inputs(), d.outputs(tokens=tokens))

    expect(refused(make_cluster, layout, act), IA, r"outputs\.tokens.*win_offset is 8.*multiple of 16")


# ---- Combine ----


def combine(
    inputs: Act = lambda d: d.combine_inputs(), outputs: Act = lambda d: d.combine_outputs(), **config: Any
) -> Act:
    """A combine of a good handle with these tensors."""
    return lambda d: d.handle().combine(inputs(d), outputs(d), config=ep.CombineConfig(**config))


def gradients(d: Desk, shape: Any = None, dtype: Any = np.float32) -> ep.CombineInputs:
    return d.combine_inputs(topk_weights=d.array(shape, dtype) if shape else d.received_weights)


def gradients_out(d: Desk, shape: Any = (b, K)) -> ep.CombineOutputs:
    return d.combine_outputs(topk_weights=d.array(shape, np.float32))


def backward(inputs: Act = gradients, outputs: Act = gradients_out) -> Act:
    return combine(inputs, outputs, pass_direction=BWD)


COMMON_COMBINE = (
    ("recipe", combine(quantization_recipe=1), IU, r"quant_recipe.*1.*not available"),
    ("scales", combine(lambda d: d.combine_inputs(scales=d.weights)), IA, r"inputs\.scales.*expected NULL"),
    (
        "tokens 3D",
        combine(lambda d: d.combine_inputs(tokens=d.array((1, M, H), BF16))),
        IA,
        r"inputs\.tokens.*3 dim.*expected 2",
    ),
    (
        "tokens of int",
        combine(lambda d: d.combine_inputs(tokens=d.array((M, H), np.int32))),
        IA,
        r"inputs\.tokens.*int32.*expected bfloat16",
    ),
    (
        "fewer rows than have come",
        combine(lambda d: d.combine_inputs(tokens=d.array((ROWS - 1, H), BF16))),
        IA,
        r"inputs\.tokens.*extent 0 is 2.*expected at least 3 = rows that this rank has received",
    ),
    (
        "output type",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b, H), np.float32))),
        IA,
        r"outputs\.tokens.*float32.*expected bfloat16",
    ),
    (
        "output rows",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b + 1, H), BF16))),
        IA,
        r"outputs\.tokens.*extent 0 is 4.*expected 3",
    ),
    (
        "output hidden",
        combine(outputs=lambda d: d.combine_outputs(tokens=d.array((b, H - 8), BF16))),
        IA,
        r"outputs\.tokens.*extent 1 is 24.*expected 32",
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
    (
        "no routing",
        lambda d: d.group.init_handle(d.layout, K).combine(d.combine_inputs(), d.combine_outputs()),
        IU,
        r"no routing.*expected ncclEpUpdateHandle",
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

    failure = refused(make_cluster, layout, act, budget=0)
    expect(failure, IA, rf"outputs\.{name}.*extent 0 is 2.*at least 3 = rows that this rank receives")


@BOTH
def test_a_captured_dispatch(make_cluster: Any, layout: ep.Layout) -> None:
    def act(d: Desk) -> None:
        handle = d.handle()
        d.rank.synchronize()
        with d.rank.capture() as graph:
            handle.dispatch(d.inputs(), d.outputs(), stream=graph.stream)

    expect(refused(make_cluster, layout, act, budget=0), IU, r"capturing.*max_recv_tokens_per_rank")


# ---- Ignored ----


@BOTH
def test_send_only_is_ignored(make_cluster: Any, layout: ep.Layout) -> None:
    def main(rank: Any) -> None:
        config = ep.GroupConfig(
            algorithm=ep.Algorithm.HIGH_THROUGHPUT,
            num_experts=E,
            max_dispatch_tokens_per_rank=B,
            max_recv_tokens_per_rank=M,
            max_token_bytes=2 * H,
        )
        with ep.Group(rank.comm, config) as group:
            desk = Desk(rank, group, layout)
            handle = desk.handle()
            send_only = ep.DispatchConfig(send_only=True), ep.CombineConfig(send_only=True)
            handle.dispatch(desk.inputs(), desk.outputs(), config=send_only[0])
            handle.update(desk.topk_idx)
            handle.combine(desk.combine_inputs(), desk.combine_outputs(), config=send_only[1])
            handle.complete()
            assert (rank.read(desk.received)[:ROWS] == 0).all()

    make_cluster(1).run(main)

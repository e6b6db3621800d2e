# SPDX-License-Identifier: Apache-2.0
"""What the tests of misuse share: a desk with well-formed tensors, of which a test spoils one, and rows of
what every layout of both algorithms refuses.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest

BF16 = ml_dtypes.bfloat16
IA, IU = ep.InvalidArgument, ep.InvalidUsage
E, B, b, K, H = 4, 4, 3, 2, 32  # one rank: R = 1, L = E


class Desk(ABC):
    """One rank with a group and well-formed tensors.

    Attributes:
        CONFIG: of the group.
        received: dispatch's output tokens and combine's input.
    """

    CONFIG: ClassVar[dict[str, Any]] = {
        "num_experts": E,
        "max_dispatch_tokens_per_rank": B,
        "max_token_bytes": 2 * H,
    }
    received: Any

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        self.rank, self.group, self.layout = rank, group, layout
        self.topk_idx = self.array((b, K), np.int64)
        self.tokens = self.array((b, H), BF16)
        self.weights = self.array((b, K), np.float32)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.rank.array(np.zeros(shape, dtype))

    def handle(self) -> ep.Handle:
        return self.group.create_handle(self.layout, self.topk_idx)

    def handle_to_combine(self) -> ep.Handle:
        """A handle that has gone through what must come before combine."""
        return self.handle()

    @abstractmethod
    def inputs(self, **changes: Any) -> ep.DispatchInputs: ...

    @abstractmethod
    def outputs(self, **changes: Any) -> ep.DispatchOutputs: ...

    def info(self, **changes: Any) -> ep.LayoutInfo:
        return ep.LayoutInfo(**changes)

    def combine_inputs(self, **changes: Any) -> ep.CombineInputs:
        return ep.CombineInputs(**({"tokens": self.received} | changes))

    def combine_outputs(self, **changes: Any) -> ep.CombineOutputs:
        return ep.CombineOutputs(**({"tokens": self.tokens} | changes))

    def outputs_of_a_refused_call(self) -> list[tuple[Any, int]]:
        """Outputs that nothing has written to, each with what fills it."""
        return []


Act = Callable[[Any], Any]


def refused(desk_type: type[Desk], make_cluster: Any, layout: ep.Layout, act: Act, **config: Any) -> ep.Error:
    """The error that ``act`` ends in. The group must work as before afterwards."""

    def main(rank: Any) -> ep.Error:
        with ep.Group(rank.comm, ep.GroupConfig(**(desk_type.CONFIG | config))) as group:
            desk = desk_type(rank, group, layout)
            with pytest.raises(ep.Error) as failure:
                act(desk)
            for output, value in desk.outputs_of_a_refused_call():
                assert (rank.read(output) == value).all()
            assert group.async_error() is None
            if "zero_copy" not in config:  # the desk has no windows
                works(desk)
            rank.synchronize()
            return failure.value

    return make_cluster(1).run(main)[0]


def works(desk: Desk) -> None:
    with desk.handle() as handle:
        handle.complete()
        handle.dispatch(desk.inputs(), desk.outputs(), layout_info=desk.info())
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


# ---- Acts ----


def update(shape: tuple[int, ...] = (b, K), dtype: Any = np.int64, **info: Any) -> Act:
    """Gives a good handle a routing of this shape and type, and asks for these counters."""

    def act(d: Desk) -> None:
        counters = {name: d.array(*counter) for name, counter in info.items()}
        d.handle().update(d.array(shape, dtype), layout_info=ep.LayoutInfo(**counters) if info else None)

    return act


def on_no_stream(d: Desk) -> None:
    """A dispatch on what is no stream."""
    d.handle().dispatch(d.inputs(), d.outputs(), layout_info=d.info(), stream=12345)


NO_STREAM = r"ncclEpDispatch: stream: no such stream on rank 0, expected"


def dispatch(
    inputs: Act = lambda d: d.inputs(),
    outputs: Act = lambda d: d.outputs(),
    info: Act = lambda d: d.info(),
    **config: Any,
) -> Act:
    """A dispatch of a good handle with these tensors."""
    return lambda d: d.handle().dispatch(
        inputs(d), outputs(d), layout_info=info(d), config=ep.DispatchConfig(**config)
    )


def combine(
    inputs: Act = lambda d: d.combine_inputs(), outputs: Act = lambda d: d.combine_outputs(), **config: Any
) -> Act:
    """A combine of a good handle with these tensors."""
    return lambda d: d.handle_to_combine().combine(inputs(d), outputs(d), config=ep.CombineConfig(**config))


def misaligned(d: Desk) -> ep.Tensor:
    raw = d.array((4 * B * H * 2 + 16,), np.uint8)
    return ep.Tensor(ep.Tensor(raw).ptr + 8, dtype="bfloat16", shape=(b, H))


def unknown_window(d: Desk) -> ep.Tensor:
    return ep.Tensor(0, dtype="bfloat16", shape=(b, H), window=12345, window_offset=0)


# ---- What every layout refuses ----

HANDLE = (
    ("unset", lambda d: d.group.init_handle(ep.Layout.UNSET, K), IA, r"layout.*0.*expected"),
    ("unknown", lambda d: d.group.init_handle(9, K), IA, r"layout.*9.*expected"),
    (
        "alignment 3",
        lambda d: d.group.init_handle(d.layout, K, config=ep.HandleConfig(3)),
        IA,
        r"dispatch_output_per_expert_alignment.*3.*power of two",
    ),
    (
        "small memory",
        lambda d: d.group.init_handle(
            d.layout, K, handle_mem=d.array((d.group.handle_mem_size(d.layout, K) - 1,), np.uint8)
        ),
        IA,
        r"handle_mem.*extent 0 is \d+, expected at least \d+ = ncclEpHandleMemSize",
    ),
    (
        "memory type",
        lambda d: d.group.init_handle(d.layout, K, handle_mem=d.array((100_000,), np.int8)),
        IA,
        r"handle_mem.*int8.*expected uint8",
    ),
    (
        "memory shape",
        lambda d: d.group.init_handle(d.layout, K, handle_mem=d.array((1000, 100), np.uint8)),
        IA,
        r"handle_mem.*2 dimensions.*expected 1",
    ),
)

ROUTING = (
    ("1D", update((6,)), IA, r"topk_idx.*1 dimension.*expected 2"),
    ("3D", update((3, 2, 1)), IA, r"topk_idx.*3 dimension.*expected 2"),
    ("float", update(dtype=np.float32), IA, r"topk_idx.*float32.*expected int32 or int64"),
    ("uint32", update(dtype=np.uint32), IA, r"topk_idx.*uint32.*expected int32 or int64"),
    ("smaller K", update((b, K - 1)), IA, r"topk_idx.*extent 1 is 1.*expected 2"),
    ("larger K", update((b, K + 1)), IA, r"topk_idx.*extent 1 is 3.*expected 2"),
    ("too many tokens", update((B + 1, K)), IA, r"topk_idx.*extent 0 is 5.*expected at most 4"),
    ("count of int64", update(num_tokens=((1,), np.int64)), IA, r"info\.num_tokens.*int64.*expected int32"),
    ("two counts", update(num_tokens=((2,), np.int32)), IA, r"info\.num_tokens.*extent 0 is 2.*expected 1"),
    (
        "numbering",
        lambda d: d.handle().update(d.topk_idx, layout_info=ep.LayoutInfo(recv_topk_idx_kind=7)),
        IA,
        r"layout_info\.recv_topk_idx_kind: is 7, expected 0 to 2",
    ),
    (
        "numbering when created",
        lambda d: d.group.create_handle(
            d.layout, d.topk_idx, layout_info=ep.LayoutInfo(recv_topk_idx_kind=7)
        ),
        IA,
        r"layout_info\.recv_topk_idx_kind: is 7, expected 0 to 2",
    ),
)

DISPATCH = (
    (
        "count",
        dispatch(info=lambda d: d.info(num_tokens=d.array((1,), np.int32))),
        IA,
        r"layout_info\.num_tokens.*expected NULL: ncclEpUpdateHandle",
    ),
    (
        "a window that is none",
        dispatch(lambda d: d.inputs(tokens=unknown_window(d))),
        IA,
        r"ncclEpDispatch: inputs\.tokens: win_hdl and win_offset \(0\).*expected a window of the group's",
    ),
    ("unknown recipe", dispatch(quantization_recipe=9), IA, r"quant_recipe.*9.*expected"),
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
        "output type",
        dispatch(outputs=lambda d: d.outputs(tokens=d.array(d.received.shape, np.float16))),
        IA,
        r"outputs\.tokens.*float16.*expected bfloat16",
    ),
    (
        "no routing",
        lambda d: d.group.init_handle(d.layout, K).dispatch(d.inputs(), d.outputs(), layout_info=d.info()),
        IU,
        r"no routing.*expected ncclEpUpdateHandle",
    ),
)

# Where dispatch takes the weights.
DISPATCH_WEIGHTS = (
    (
        "no weights",
        dispatch(lambda d: d.inputs(topk_weights=None)),
        IA,
        r"inputs\.topk_weights.*NULL.*expected a tensor",
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
        "no output weights",
        dispatch(outputs=lambda d: d.outputs(topk_weights=None)),
        IA,
        r"outputs\.topk_weights.*NULL.*expected",
    ),
)

COMBINE = (
    ("scales", combine(lambda d: d.combine_inputs(scales=d.weights)), IA, r"inputs\.scales.*expected NULL"),
    (
        "tokens of int",
        combine(lambda d: d.combine_inputs(tokens=d.array(d.received.shape, np.int32))),
        IA,
        r"inputs\.tokens.*int32.*expected bfloat16",
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
    (
        "no routing",
        lambda d: d.group.init_handle(d.layout, K).combine(d.combine_inputs(), d.combine_outputs()),
        IU,
        r"no routing.*expected ncclEpUpdateHandle",
    ),
)

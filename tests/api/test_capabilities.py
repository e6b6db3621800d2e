# SPDX-License-Identifier: Apache-2.0
"""Questions about calls: those that would be refused, those that make no sense, and structs of other ages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nccl_ep as ep
import pytest
from nccl_ep._ffi import constants, default_library, ffi

HT, LL = ep.Algorithm.HIGH_THROUGHPUT, ep.Algorithm.LOW_LATENCY
EM, RM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR, ep.Layout.FLAT
DISPATCH, COMBINE = ep.Operation.DISPATCH, ep.Operation.COMBINE
REFUSED, NONE = ep.RowPath.REFUSED, ep.RowPath.NONE
IA, IU = 4, 5
BWD = ep.PassDir.BWD
H = 64
BOTH = pytest.mark.parametrize("algorithm", [LL, HT], ids=["low-latency", "high-throughput"])


def with_group(
    make_cluster: Any, algorithm: ep.Algorithm, act: Callable[[ep.Group], Any], max_token_bytes: int = 2 * H
) -> Any:
    """What ``act`` returns, in a group of one rank."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, ep.GroupConfig(algorithm, 4, 4, max_token_bytes=max_token_bytes)) as group:
            return act(group)

    return make_cluster(1).run(main)[0]


def ask(
    make_cluster: Any, algorithm: ep.Algorithm, layout: int, query: ep.CapabilityQuery
) -> ep.Capabilities:
    answer: ep.Capabilities = with_group(
        make_cluster, algorithm, lambda group: group.capabilities(layout, query)
    )
    return answer


REFUSALS: list[tuple[str, ep.Algorithm, ep.Layout, ep.CapabilityQuery, int, str]] = [
    ("flat", LL, FLAT, ep.CapabilityQuery(DISPATCH, hidden=H), IA, r"layout: is 3, expected .* Low Latency"),
    ("rank-major", HT, RM, ep.CapabilityQuery(DISPATCH, hidden=H), IA, r"layout: is 2, expected .* High"),
    ("no row", LL, EM, ep.CapabilityQuery(DISPATCH), IA, r"inputs\.tokens: .* 0 bytes, expected .* 16"),
    ("odd row", HT, FLAT, ep.CapabilityQuery(DISPATCH, hidden=12), IA, r"inputs\.tokens: .*12 bf.* 24 bytes"),
    ("long row", HT, EM, ep.CapabilityQuery(COMBINE, hidden=2 * H), IA, r"inputs\.tokens: .*at most 128"),
    ("beyond 64 bits", LL, EM, ep.CapabilityQuery(COMBINE, hidden=2**63 + H), IA, r"at most 128"),
    ("long row", LL, RM, ep.CapabilityQuery(COMBINE, hidden=2 * H), IA, r"inputs\.tokens: .*at most 128"),
    (
        "type",
        HT,
        FLAT,
        ep.CapabilityQuery(DISPATCH, datatype="int32", hidden=4),
        IA,
        r"inputs\.tokens: .*int32.*expected",
    ),
    (
        "type",
        LL,
        EM,
        ep.CapabilityQuery(COMBINE, datatype="float8_e4m3fn", hidden=H),
        IA,
        r"inputs\.tokens: .*expected bf",
    ),
    (
        "backward",
        LL,
        EM,
        ep.CapabilityQuery(DISPATCH, BWD, hidden=H),
        IU,
        r"config\.pass_direction: is NCCL_EP_BWD_PASS",
    ),
    ("backward", LL, RM, ep.CapabilityQuery(COMBINE, BWD, hidden=H), IU, r"config\.pass_direction"),
    (
        "scales",
        HT,
        FLAT,
        ep.CapabilityQuery(DISPATCH, hidden=H, num_scales=4),
        IA,
        r"inputs\.scales: is given",
    ),
    ("scales", LL, RM, ep.CapabilityQuery(COMBINE, hidden=H, num_scales=1), IA, r"inputs\.scales: is given"),
    (
        "no global scales",
        LL,
        EM,
        ep.CapabilityQuery(COMBINE, hidden=H, quantization_recipe=1),
        IA,
        r"inputs\.scales: is NULL",
    ),
    (
        "global scales",
        LL,
        RM,
        ep.CapabilityQuery(COMBINE, hidden=H, quantization_recipe=1, num_scales=4),
        IA,
        r"inputs\.scales: extent 2 is 4, expected 1 = the global scale of a row",
    ),
    (
        "recipe",
        HT,
        EM,
        ep.CapabilityQuery(COMBINE, hidden=H, quantization_recipe=1, num_scales=1),
        IU,
        r"quant_recipe: is NCCL_EP_COMB_QUANT_NVFP4 \(1\), expected .* has it in Low Latency",
    ),
    (
        "odd groups",
        HT,
        FLAT,
        ep.CapabilityQuery(COMBINE, hidden=H, quantization_recipe=2),
        IA,
        r"inputs\.tokens: hidden is 64, expected a positive multiple of 128",
    ),
    (
        "odd groups",
        LL,
        EM,
        ep.CapabilityQuery(COMBINE, hidden=H, quantization_recipe=2),
        IA,
        r"inputs\.tokens: hidden is 64, expected a positive multiple of 128",
    ),
    (
        "no scales",
        LL,
        RM,
        ep.CapabilityQuery(DISPATCH, hidden=H, quantization_recipe=1),
        IA,
        r"inputs\.scales",
    ),
]


@pytest.mark.parametrize(
    ("algorithm", "layout", "query", "result", "says"),
    [row[1:] for row in REFUSALS],
    ids=[f"{row[1].name}-{row[2].name}-{row[0]}".lower() for row in REFUSALS],
)
def test_what_would_be_refused(
    make_cluster: Any,
    algorithm: ep.Algorithm,
    layout: ep.Layout,
    query: ep.CapabilityQuery,
    result: int,
    says: str,
) -> None:
    answer = ask(make_cluster, algorithm, layout, query)
    assert answer.result == result
    for path in (answer.inputs_tokens, answer.inputs_scales, answer.outputs_tokens, answer.outputs_scales):
        assert path.path == REFUSED
        assert re.search(says, path.reason), path.reason


@BOTH
@pytest.mark.parametrize("operation", [DISPATCH, COMBINE], ids=["dispatch", "combine"])
def test_a_call_without_scales_has_no_paths_of_scales(
    make_cluster: Any, algorithm: ep.Algorithm, operation: ep.Operation
) -> None:
    answer = ask(make_cluster, algorithm, EM, ep.CapabilityQuery(operation, hidden=H, scales_in_window=True))
    assert answer.result == 0
    assert answer.inputs_scales == answer.outputs_scales == ep.TensorPath(NONE, "")
    assert answer.inputs_tokens.reason.startswith("inputs.tokens: ")
    assert answer.outputs_tokens.reason.startswith("outputs.tokens: ")


def test_scales_that_dispatch_makes(make_cluster: Any) -> None:
    def act(group: ep.Group) -> list[ep.Capabilities]:
        query = ep.CapabilityQuery(DISPATCH, quantization_recipe=2, hidden=128, tokens_in_window=True)
        in_windows = replace(query, scales_in_window=True)
        return [group.capabilities(EM, query), group.capabilities(EM, in_windows)]

    alone, both = with_group(make_cluster, HT, act, max_token_bytes=256)
    assert alone.result == IA
    assert alone.outputs_scales.reason.startswith("outputs.scales: has no window, expected one")
    assert both.inputs_scales == ep.TensorPath(NONE, "")
    assert both.outputs_tokens.path == both.outputs_scales.path == ep.RowPath.DIRECT
    staged = with_group(make_cluster, LL, act, max_token_bytes=256)
    assert [answer.outputs_scales.path for answer in staged] == [ep.RowPath.STAGED] * 2


def test_the_recipe_of_combine(make_cluster: Any) -> None:
    query = ep.CapabilityQuery(COMBINE, quantization_recipe=ep.CombineQuantizationRecipe.FP8, hidden=128)
    answer = with_group(make_cluster, LL, lambda group: group.capabilities(RM, query), max_token_bytes=256)
    assert answer.result == 0
    assert answer.inputs_scales.path == NONE
    assert answer.inputs_tokens.path == answer.outputs_tokens.path == ep.RowPath.IN_PLACE


@pytest.mark.parametrize("layout", [EM, RM], ids=["expert-major", "rank-major"])
def test_global_scales_of_combine(make_cluster: Any, layout: ep.Layout) -> None:
    recipe = ep.CombineQuantizationRecipe.NVFP4
    query = ep.CapabilityQuery(COMBINE, quantization_recipe=recipe, hidden=H, num_scales=1)
    answer = with_group(make_cluster, LL, lambda group: group.capabilities(layout, query))
    assert answer.result == 0
    paths = (answer.inputs_tokens, answer.inputs_scales, answer.outputs_tokens)
    assert [path.path for path in paths] == [ep.RowPath.IN_PLACE] * 3
    assert answer.outputs_scales.path == NONE


def test_the_backward_pass_goes_the_same_ways(make_cluster: Any) -> None:
    def act(group: ep.Group) -> list[ep.Capabilities]:
        return [
            group.capabilities(FLAT, ep.CapabilityQuery(DISPATCH, way, hidden=H, tokens_in_window=True))
            for way in ep.PassDir
        ]

    forward, backward = with_group(make_cluster, HT, act)
    assert forward == backward
    assert forward.outputs_tokens.path == ep.RowPath.DIRECT


# ---- Questions that make no sense ----

MISUSE = [
    ("no operation", {"operation": 0}, r"query\.operation: is NCCL_EP_OPERATION_UPDATE"),
    ("operation", {"operation": 3}, r"query\.operation: is 3, expected 0 to 2"),
    ("pass", {"pass_direction": 2}, r"query\.pass_direction: is 2"),
    ("recipe of dispatch", {"quant_recipe": 99}, r"query\.quant_recipe: is 99, expected 0 to"),
    ("recipe of combine", {"operation": 2, "quant_recipe": 99}, r"query\.quant_recipe: is 99"),
    ("magic", {"magic": 0}, r"query: magic is 0x0+, expected"),
    ("size", {"size": 47}, r"query: size is 47, expected at least 48"),
]


def c_query(**fields: int) -> Any:
    query = ep.CapabilityQuery(DISPATCH, hidden=H).c
    for name, value in fields.items():
        setattr(query, name, value)
    return query


def c_answer(**fields: int) -> Any:
    answer = ffi.new("ncclEpCapabilities_t*")
    answer.size, answer.magic = ffi.sizeof("ncclEpCapabilities_t"), constants["NCCL_EP_MAGIC"]
    answer.result = 77
    for name, value in fields.items():
        setattr(answer, name, value)
    return answer


def refused(make_cluster: Any, layout: int, query: Any, answer: Any) -> str:
    """The message of a question that is refused."""

    def act(group: ep.Group) -> str:
        group_ptr = ffi.cast("ncclEpGroup_t", group.ptr)
        with pytest.raises(ep.InvalidArgument) as failure:
            group.check(group.library.c.ncclEpQueryCapabilities(group_ptr, layout, query, answer))
        return str(failure.value)

    message: str = with_group(make_cluster, HT, act)
    return message


@pytest.mark.parametrize(("fields", "says"), [row[1:] for row in MISUSE], ids=[row[0] for row in MISUSE])
def test_a_question_that_makes_no_sense(make_cluster: Any, fields: dict[str, int], says: str) -> None:
    answer = c_answer()
    assert re.search(says, refused(make_cluster, FLAT, c_query(**fields), answer))
    assert answer.result == 77


def test_what_must_be_given(make_cluster: Any) -> None:
    assert "query: is NULL" in refused(make_cluster, FLAT, ffi.NULL, c_answer())
    assert "capabilities: is NULL" in refused(make_cluster, FLAT, c_query(), ffi.NULL)
    assert "capabilities: magic is" in refused(make_cluster, FLAT, c_query(), c_answer(magic=1))
    assert "capabilities: size is 8" in refused(make_cluster, FLAT, c_query(), c_answer(size=8))
    assert "layout: is 4" in refused(make_cluster, 4, c_query(), c_answer())
    library = default_library()
    with pytest.raises(ep.InvalidArgument, match="ep_group: is NULL"):
        library.check(library.c.ncclEpQueryCapabilities(ffi.NULL, FLAT, c_query(), c_answer()))


def test_an_answer_fits_the_structs_of_a_later_version(make_cluster: Any) -> None:
    """What the library does not know stays as it is."""
    size = ffi.sizeof("ncclEpCapabilities_t")
    memory = ffi.new("unsigned char[]", b"\xa5" * (size + 16))
    answer = ffi.cast("ncclEpCapabilities_t*", memory)
    answer.size, answer.magic = size + 16, constants["NCCL_EP_MAGIC"]

    def act(group: ep.Group) -> None:
        group_ptr = ffi.cast("ncclEpGroup_t", group.ptr)
        group.check(group.library.c.ncclEpQueryCapabilities(group_ptr, FLAT, c_query(), answer))

    with_group(make_cluster, HT, act)
    assert (answer.size, answer.magic, answer.result) == (size + 16, constants["NCCL_EP_MAGIC"], 0)
    assert bytes(memory)[size:-1] == b"\xa5" * 16

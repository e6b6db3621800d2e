# SPDX-License-Identifier: Apache-2.0
"""Malformed C structs and NULL pointers: a code, never a crash; and sizes of other versions are
understood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from nccl_ep._ffi import NULL, Library, constants, default_library, ffi

INVALID_ARGUMENT = 4
CONFIG = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)


def in_group(make_cluster: Any, act: Callable[[Any, ep.Group, Library], Any]) -> Any:
    """Runs ``act(rank, group, library)`` on a cluster of one rank."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, CONFIG) as group:
            return act(rank, group, group.library)

    return make_cluster(1).run(main)[0]


def message(library: Library) -> str:
    return ffi.string(library.c.ncclEpGetLastError(NULL)).decode()


def spoiled(struct: Any, **fields: int) -> Any:
    """A copy of a C struct with some fields changed."""
    copy = ffi.new(f"{ffi.typeof(struct).item.cname}*", struct[0])
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"size": 0}, "size"), ({"size": 95}, "95"), ({"magic": 0}, "magic"), ({"magic": 7}, "7")],
)
def test_a_group_config_that_is_none(make_cluster: Any, fields: dict[str, int], says: str) -> None:
    def main(rank: Any) -> tuple[int, Any, str]:
        library, out = default_library(), ffi.new("ncclEpGroup_t*", ffi.cast("ncclEpGroup_t", 1))
        comm = ffi.cast("ncclComm_t", ep.foreign.communicator_address(rank.comm)[0])
        result = library.c.ncclEpCreateGroup(out, comm, spoiled(CONFIG.c, **fields))
        return result, out[0], message(library)

    result, group, text = make_cluster(1).run(main)[0]
    assert result == INVALID_ARGUMENT
    assert group == NULL
    assert says in text
    assert "config" in text


@pytest.mark.parametrize("size", [96, 112, 4096])
def test_a_group_config_of_another_version(make_cluster: Any, size: int) -> None:
    def main(rank: Any) -> int:
        library, out = default_library(), ffi.new("ncclEpGroup_t*")
        comm = ffi.cast("ncclComm_t", ep.foreign.communicator_address(rank.comm)[0])
        room = ffi.new("char[4096]")
        config = ffi.cast("ncclEpGroupConfig_t*", room)
        config[0] = CONFIG.c[0]
        config.size = size
        if size == 96:
            config.num_topk = 1000  # beyond what a program of version 1 has
        library.check(library.c.ncclEpCreateGroup(out, comm, config))
        return library.c.ncclEpGroupDestroy(out[0])

    assert make_cluster(1).run(main) == [0]


def test_null_pointers(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group, library: Library) -> list[tuple[str, int]]:
        c, ptr = library.c, group._open_ptr()
        handle_out, size_out = ffi.new("ncclEpHandle_t*"), ffi.new("size_t*")
        table = ep.Tensor(rank.array(np.zeros((2, 2), np.int64)))
        with group.create_handle(ep.Layout.EXPERT_MAJOR, table) as made:
            handle = made._open_ptr()
            tokens = ep.DispatchInputs(rank.array(np.zeros((2, 32), np.float16)))
            calls = {
                "GetVersion": c.ncclEpGetVersion(NULL),
                "CreateGroup: out": c.ncclEpCreateGroup(NULL, NULL, CONFIG.c),
                "CreateGroup: comm": c.ncclEpCreateGroup(ffi.new("ncclEpGroup_t*"), NULL, CONFIG.c),
                "HandleMemSize: group": c.ncclEpHandleMemSize(NULL, 1, NULL, size_out, 2),
                "HandleMemSize: out": c.ncclEpHandleMemSize(ptr, 1, NULL, NULL, 2),
                "InitHandle: out": c.ncclEpInitHandle(NULL, ptr, 1, NULL, 2, NULL),
                "InitHandle: group": c.ncclEpInitHandle(handle_out, NULL, 1, NULL, 2, NULL),
                "CreateHandle: out": c.ncclEpCreateHandle(NULL, ptr, 1, table.c, NULL, NULL, NULL),
                "CreateHandle: group": c.ncclEpCreateHandle(handle_out, NULL, 1, table.c, NULL, NULL, NULL),
                "CreateHandle: topk": c.ncclEpCreateHandle(handle_out, ptr, 1, NULL, NULL, NULL, NULL),
                "UpdateHandle: handle": c.ncclEpUpdateHandle(NULL, table.c, NULL, NULL),
                "UpdateHandle: topk": c.ncclEpUpdateHandle(handle, NULL, NULL, NULL),
                "Dispatch: handle": c.ncclEpDispatch(NULL, tokens.c, NULL, NULL, NULL, NULL),
                "Dispatch: inputs": c.ncclEpDispatch(handle, NULL, NULL, NULL, NULL, NULL),
                "Dispatch: outputs": c.ncclEpDispatch(handle, tokens.c, NULL, NULL, NULL, NULL),
                "Combine: handle": c.ncclEpCombine(NULL, NULL, NULL, NULL, NULL),
                "Combine: inputs": c.ncclEpCombine(handle, NULL, NULL, NULL, NULL),
                "Complete": c.ncclEpComplete(NULL, NULL, NULL),
                "MaskQuery": c.ncclEpMaskQuery(NULL, NULL, NULL),
                "MaskUpdate": c.ncclEpMaskUpdate(NULL, NULL, NULL),
                "MaskClean": c.ncclEpMaskClean(NULL, NULL),
                "GetAsyncError: group": c.ncclEpGetAsyncError(NULL, ffi.new("int*")),
                "GetAsyncError: out": c.ncclEpGetAsyncError(ptr, NULL),
                "ErrorClear": c.ncclEpErrorClear(NULL),
                "TensorAlloc": c.ncclEpTensorAlloc(NULL, 1, 0, ffi.new("size_t[1]"), NULL),
            }
        assert handle_out[0] == NULL
        return list(calls.items())

    wrong = [(name, result) for name, result in in_group(make_cluster, act) if result != INVALID_ARGUMENT]
    assert not wrong


def test_nothing_is_fine_to_destroy() -> None:
    c = default_library().c
    assert c.ncclEpGroupDestroy(NULL) == c.ncclEpHandleDestroy(NULL) == c.ncclEpTensorDestroy(NULL) == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": 40}, "40"),
        ({"magic": constants["NCCL_EP_MAGIC"]}, "magic"),
        ({"ndim": 0}, "ndim"),
    ],
)
def test_a_tensor_that_is_none(make_cluster: Any, fields: dict[str, int], says: str) -> None:
    def act(rank: Any, group: ep.Group, library: Library) -> tuple[int, str]:
        table = ep.Tensor(rank.array(np.zeros((2, 2), np.int64)))
        with group.init_handle(ep.Layout.EXPERT_MAJOR, 2) as handle:
            result = library.c.ncclEpUpdateHandle(handle._open_ptr(), spoiled(table.c, **fields), NULL, NULL)
            return result, message(library)

    result, text = in_group(make_cluster, act)
    assert result == INVALID_ARGUMENT
    assert says in text
    assert "topk_idx" in text


def test_a_tensor_without_memory(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group, library: Library) -> int:
        table = spoiled(ep.Tensor(rank.array(np.zeros((2, 2), np.int64))).c, data=NULL)
        with group.init_handle(ep.Layout.EXPERT_MAJOR, 2) as handle:
            return library.c.ncclEpUpdateHandle(handle._open_ptr(), table, NULL, NULL)

    assert in_group(make_cluster, act) == INVALID_ARGUMENT


def test_an_empty_tensor_needs_no_memory(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group, library: Library) -> None:
        group.create_handle(ep.Layout.EXPERT_MAJOR, ep.Tensor(0, dtype="int32", shape=(0, 2))).close()

    in_group(make_cluster, act)


def test_descriptors_of_the_library() -> None:
    library = default_library()
    out, sizes = ffi.new("ncclEpTensor_t**"), ffi.new("size_t[]", [3, 5])
    library.check(library.c.ncclEpTensorAlloc(out, 2, ep.DataType.FLOAT32, sizes, NULL))
    tensor = out[0]
    assert (tensor.ndim, tensor.sizes[0], tensor.sizes[1]) == (2, 3, 5)
    assert tensor.data == NULL
    kept, tensor.sizes = tensor.sizes, sizes
    assert library.c.ncclEpTensorDestroy(tensor) == INVALID_ARGUMENT
    tensor.sizes = kept
    assert library.c.ncclEpTensorDestroy(tensor) == 0
    mine = ep.Tensor(np.zeros((2, 2), np.float32))
    assert library.c.ncclEpTensorDestroy(mine.c) == INVALID_ARGUMENT


def test_a_group_with_handles_is_not_destroyed(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group, library: Library) -> int:
        with group.init_handle(ep.Layout.EXPERT_MAJOR, 2):
            return library.c.ncclEpGroupDestroy(group._open_ptr())

    assert in_group(make_cluster, act) == 5

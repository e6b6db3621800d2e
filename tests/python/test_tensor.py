# SPDX-License-Identifier: Apache-2.0
"""Tensor understands every kind of memory and refuses what it cannot describe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest


def described(tensor: ep.Tensor) -> tuple[Any, ...]:
    """What the C descriptor says."""
    c = tensor.c
    sizes = tuple(c.sizes[i] for i in range(c.ndim))
    return tensor.ptr, sizes, ep.DataType(c.datatype)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float16,
        np.float32,
        np.float64,
        np.int8,
        np.int32,
        np.int64,
        np.uint8,
        np.uint32,
        np.uint64,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
    ],
)
def test_numpy(dtype: Any) -> None:
    array = np.zeros((2, 3), dtype)
    expected = ep.DataType.of(np.dtype(dtype).name)
    assert described(ep.Tensor(array)) == (array.ctypes.data, (2, 3), expected)
    assert expected.itemsize == array.itemsize


class OnlyDlpack:
    """Memory that speaks nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        return self.array.__dlpack__()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8])
def test_dlpack(dtype: Any) -> None:
    array = np.zeros((4, 2), dtype)
    assert described(ep.Tensor(OnlyDlpack(array))) == (array.ctypes.data, (4, 2), ep.DataType.of(dtype))


def test_dlpack_strides() -> None:
    with pytest.raises(ValueError, match="strides"):
        ep.Tensor(OnlyDlpack(np.zeros((4, 4), np.float32)[:, ::2]))


def cuda_array(**fields: Any) -> Any:
    """Memory that speaks the CUDA array interface."""
    interface = {"data": (4096, False), "shape": (2, 8), "typestr": "<f4", "version": 3} | fields
    return SimpleNamespace(__cuda_array_interface__=interface)


def test_cuda_array_interface() -> None:
    assert described(ep.Tensor(cuda_array())) == (4096, (2, 8), ep.DataType.FLOAT32)
    assert ep.Tensor(cuda_array(strides=(32, 4))).sizes == (2, 8)
    with pytest.raises(ValueError, match="strides"):
        ep.Tensor(cuda_array(strides=(64, 4)))


def test_an_array_knows_bfloat16_better_than_the_interface() -> None:
    array = cuda_array(typestr="<V2")
    array.dtype = np.dtype(ml_dtypes.bfloat16)
    assert ep.Tensor(array).datatype is ep.DataType.BFLOAT16


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (
        torch.bfloat16,
        torch.float16,
        torch.float32,
        torch.int64,
        torch.int32,
        torch.float8_e4m3fn,
    ):
        tensor = torch.zeros((3, 4), dtype=dtype)
        expected = ep.DataType.of(str(dtype).removeprefix("torch."))
        assert described(ep.Tensor(tensor)) == (tensor.data_ptr(), (3, 4), expected)
    with pytest.raises(ValueError, match="contiguous"):
        ep.Tensor(torch.zeros((3, 4)).t())


def test_a_torch_look_alike() -> None:
    """The same without torch installed: what counts is the protocol."""
    array = np.zeros((3, 4), np.uint16)
    tensor = SimpleNamespace(
        data_ptr=lambda: array.ctypes.data,
        is_contiguous=lambda: True,
        stride=lambda: (4, 1),
        element_size=lambda: 2,
        shape=(3, 4),
        dtype="torch.bfloat16",
    )
    assert described(ep.Tensor(tensor)) == (array.ctypes.data, (3, 4), ep.DataType.BFLOAT16)


def test_raw_buffers_need_type_and_shape() -> None:
    buffer = SimpleNamespace(handle=8192, size=64, memory_resource=None)
    assert described(ep.Tensor(buffer, dtype="bfloat16", shape=(4, 8))) == (
        8192,
        (4, 8),
        ep.DataType.BFLOAT16,
    )
    with pytest.raises(TypeError, match="dtype is missing"):
        ep.Tensor(buffer, shape=(4, 8))
    with pytest.raises(TypeError, match="shape is missing"):
        ep.Tensor(buffer, dtype="bfloat16")
    with pytest.raises(ValueError, match="needs 66 bytes, the memory has 64"):
        ep.Tensor(buffer, dtype="bfloat16", shape=(33,))


def test_an_address() -> None:
    assert described(ep.Tensor(4096, dtype=np.int32, shape=(7,))) == (4096, (7,), ep.DataType.INT32)


def test_another_type_of_the_same_size() -> None:
    array = np.zeros((2, 4), np.uint16)
    with pytest.raises(TypeError, match="uint16"):
        ep.Tensor(array)
    with pytest.raises(TypeError, match="FLOAT32 has 4 bytes"):
        ep.Tensor(np.zeros((2, 4), np.int64), dtype="float32")
    assert ep.Tensor(np.zeros((2, 4), np.float16), dtype="bfloat16").datatype is ep.DataType.BFLOAT16


def test_reshape() -> None:
    assert ep.Tensor(np.zeros(12, np.int32), shape=(3, 4)).sizes == (3, 4)
    with pytest.raises(ValueError, match="needs 52 bytes, the memory has 48"):
        ep.Tensor(np.zeros(12, np.int32), shape=(13,))


def test_strides_of_extents_that_do_not_matter() -> None:
    assert ep.Tensor(np.zeros((4, 1, 3), np.int32)[:, ::2]).sizes == (4, 1, 3)
    assert ep.Tensor(np.zeros((8, 4), np.int32)[0:0:2]).sizes == (0, 4)
    with pytest.raises(ValueError, match="strides"):
        ep.Tensor(np.zeros((4, 4), np.int32).T)


def test_a_scalar_has_no_dimension() -> None:
    with pytest.raises(ValueError, match="at least one dimension"):
        ep.Tensor(np.zeros((), np.int32))


@pytest.mark.parametrize("thing", ["text", None, 1.5, True, [1, 2]])
def test_what_is_no_memory(thing: Any) -> None:
    with pytest.raises(TypeError, match="is no memory"):
        ep.Tensor(thing)


def test_windows() -> None:
    array = np.zeros((2, 4), np.float32)
    window = SimpleNamespace(handle=777, user_ptr=array.ctypes.data - 256)
    tensor = ep.Tensor(array, window=window)
    assert int(ep._ffi.ffi.cast("uintptr_t", tensor.c.win_hdl)) == 777
    assert tensor.c.win_offset == 256
    assert ep.Tensor(array, window=777, window_offset=64).c.win_offset == 64
    with pytest.raises(TypeError, match="window_offset is missing"):
        ep.Tensor(array, window=777)


def test_repr() -> None:
    assert repr(ep.Tensor(np.zeros((2, 4), np.float16))) == "Tensor(shape=(2, 4), datatype=FLOAT16)"


def test_the_memory_lives_as_long_as_the_tensor() -> None:
    import gc
    import weakref

    array = np.zeros(4, np.int32)
    alive = weakref.ref(array)
    tensor = ep.Tensor(array)
    del array
    gc.collect()
    assert alive() is not None
    del tensor
    gc.collect()
    assert alive() is None


def test_one_extent_is_a_shape() -> None:
    assert ep.Tensor(np.zeros((2, 4), np.float32), shape=8).sizes == (8,)
    assert ep.Tensor(4096, shape=np.int64(3), dtype="int32").sizes == (3,)


def test_numbers_of_the_other_byte_order_are_refused() -> None:
    with pytest.raises(TypeError, match="no data type of NCCL"):
        ep.Tensor(np.zeros(4, ">f4"))


def test_a_tensor_lies_in_its_window() -> None:
    array = np.zeros(64, np.uint8)
    window = SimpleNamespace(user_ptr=array.ctypes.data + 16, size=32, handle=1)
    assert ep.Tensor(array[16:48], window=window).window_offset == 0
    assert ep.Tensor(array[40:48], window=window).window_offset == 24
    for outside in (array[8:16], array[40:49], array[48:]):
        with pytest.raises(
            ValueError, match=r"lie at byte -?\d+ of a window of 32 bytes, expected them inside it"
        ):
            ep.Tensor(outside, window=window)
    with pytest.raises(ValueError, match="lie at byte -8 of its window"):
        ep.Tensor(array, window=4096, window_offset=-8)

# SPDX-License-Identifier: Apache-2.0
"""Finds address, shape and data type of what holds memory: PyTorch, CuPy, NumPy, DLPack, plain pointers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nccl_ep.dtypes import DataType
from nccl_ep.elastic import ElasticBuffer


@dataclass(frozen=True)
class Memory:
    """What a buffer says about itself, None for what it cannot say. ``owner`` keeps the memory alive."""

    ptr: int
    shape: tuple[int, ...] | None
    datatype: DataType | None
    num_bytes: int | None
    owner: Any


def memory_of(buffer: Any) -> Memory:
    """Describes a buffer; TypeError if it speaks no known protocol, ValueError if it is not contiguous."""
    if isinstance(buffer, (int, np.integer)) and not isinstance(buffer, bool):
        return Memory(int(buffer), None, None, None, None)
    for known, describe in (
        (_is_elastic, _from_elastic),
        (_is_torch, _from_torch),
        (_is_cuda_core, _from_cuda_core),
        (_has_cuda_array_interface, _from_cuda_array_interface),
        (_is_numpy, _from_numpy),
        (_has_dlpack, _from_dlpack),
    ):
        if known(buffer):
            return describe(buffer)
    raise TypeError(
        f"{type(buffer).__name__} is no memory: expected a PyTorch tensor, a CuPy or NumPy array, a "
        f"cuda.core.Buffer, an ElasticBuffer, anything with __cuda_array_interface__ or __dlpack__, or an "
        f"address"
    )


def _is_elastic(buffer: Any) -> bool:
    return isinstance(buffer, ElasticBuffer)


def _from_elastic(buffer: ElasticBuffer) -> Memory:
    if buffer.closed:
        raise ValueError(f"{buffer!r} has no memory any more")
    return Memory(buffer.ptr, None, None, buffer.num_bytes, buffer)


def _is_torch(buffer: Any) -> bool:
    return hasattr(buffer, "data_ptr") and hasattr(buffer, "is_contiguous")


def _from_torch(tensor: Any) -> Memory:
    strides = [stride * tensor.element_size() for stride in tensor.stride()]
    return _contiguous(tensor, tensor.data_ptr(), tuple(tensor.shape), strides, DataType.of(tensor.dtype))


def _is_cuda_core(buffer: Any) -> bool:
    return hasattr(buffer, "handle") and hasattr(buffer, "size") and hasattr(buffer, "memory_resource")


def _from_cuda_core(buffer: Any) -> Memory:
    return Memory(int(buffer.handle), None, None, int(buffer.size), buffer)


def _has_cuda_array_interface(buffer: Any) -> bool:
    return hasattr(buffer, "__cuda_array_interface__")


def _from_cuda_array_interface(buffer: Any) -> Memory:
    interface = buffer.__cuda_array_interface__
    # Arrays know their dtype better than the interface's type string, which has no name for bfloat16.
    datatype = DataType.of(getattr(buffer, "dtype", None) or np.dtype(interface["typestr"]))
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    return _contiguous(buffer, interface["data"][0], shape, strides, datatype)


def _is_numpy(buffer: Any) -> bool:
    return isinstance(buffer, np.ndarray)


def _from_numpy(array: Any) -> Memory:
    return _contiguous(array, array.ctypes.data, array.shape, array.strides, DataType.of(array.dtype))


def _has_dlpack(buffer: Any) -> bool:
    return hasattr(buffer, "__dlpack__")


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _from_dlpack(buffer: Any) -> Memory:
    # The capsule is only read, never consumed, so its own destructor gives the memory back.
    capsule = buffer.__dlpack__(stream=-1)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(get_pointer(capsule, b"dltensor"))
    datatype = DataType.of_dlpack(
        tensor.code, tensor.bits * tensor.lanes if tensor.code != 17 else tensor.bits
    )
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = (
        [stride * datatype.itemsize for stride in tensor.strides[: tensor.ndim]] if tensor.strides else None
    )
    return _contiguous(capsule, (tensor.data or 0) + tensor.byte_offset, shape, strides, datatype)


def _contiguous(owner: Any, ptr: int, shape: tuple[int, ...], strides: Any, datatype: DataType) -> Memory:
    expected = datatype.itemsize
    for extent, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if extent > 1 and stride != expected and prod(shape):
            raise ValueError(
                f"memory of shape {shape} has byte strides {tuple(strides)}: expected row-major without "
                f"gaps; make it contiguous first"
            )
        expected *= extent
    return Memory(ptr, shape, datatype, prod(shape) * datatype.itemsize, owner)

# SPDX-License-Identifier: Apache-2.0
"""Tensor: a view of somebody's memory, as the C API wants to see it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from nccl_ep._ffi import constants, ffi
from nccl_ep._memory import memory_of
from nccl_ep.dtypes import DataType


class Tensor:
    """A row-major view of memory that somebody else owns. Nothing is copied.

    The view keeps ``buffer`` alive. The memory must stay valid, and its contents in place, until the streams
    that use it have got past the calls it was given to.

    Args:
        buffer: a PyTorch tensor, a CuPy array, a ``cuda.core.Buffer``, an :class:`ElasticBuffer`, anything
            with ``__cuda_array_interface__`` or ``__dlpack__``, an address, or on the simulator a NumPy array
            of simulated device memory.
        dtype: data type; needed for addresses and raw buffers. For an array it may name another type of the
            same item size, so that ``uint16`` memory can hold ``bfloat16``.
        shape: extents, at least one, or the only one; needed for addresses and raw buffers, otherwise a
            reshape.
        window: the window that holds the memory (``nccl.core``'s ``RegisteredWindowHandle``, a simulated
            window, or an address of one), so that other ranks can write rows straight into it.
        window_offset: where in the window the memory starts, in bytes; found by address if the window knows
            its own.

    Raises:
        TypeError: ``buffer`` speaks none of these protocols, or the data type is unknown.
        ValueError: the memory is not contiguous, too small for ``shape``, or not all in the window.

    Example:
        >>> import numpy as np
        >>> Tensor(np.zeros((4, 8), np.float32))
        Tensor(shape=(4, 8), datatype=FLOAT32)
    """

    __slots__ = ("_c", "_c_sizes", "_owner", "buffer", "datatype", "ptr", "sizes", "window", "window_offset")

    def __init__(
        self,
        buffer: Any,
        *,
        dtype: Any = None,
        shape: int | Sequence[int] | None = None,
        window: Any = None,
        window_offset: int | None = None,
    ) -> None:
        memory = memory_of(buffer)
        self.buffer = buffer
        self.ptr = memory.ptr
        self._owner = memory.owner
        self.datatype = _data_type(memory.datatype, dtype)
        self.sizes = _extents(memory.shape, shape)
        needed = prod(self.sizes) * self.datatype.itemsize
        if memory.num_bytes is not None and needed > memory.num_bytes:
            raise ValueError(
                f"a tensor of shape {self.sizes} needs {needed} bytes, the memory has {memory.num_bytes}"
            )
        self.window = window
        self.window_offset = 0 if window is None else _offset_in(window, self.ptr, needed, window_offset)
        self._build()

    @classmethod
    def of(cls, value: Any) -> Tensor:
        """``value`` itself if it is a Tensor, else a Tensor of it."""
        return value if isinstance(value, Tensor) else cls(value)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.sizes)

    @property
    def data(self) -> int:
        """The address, by the C struct's name for it."""
        return self.ptr

    @property
    def c(self) -> Any:
        """The C descriptor (cdata pointer), valid as long as this object."""
        return self._c

    def _build(self) -> None:
        self._c_sizes = ffi.new("size_t[]", self.sizes)
        self._c = ffi.new("ncclEpTensor_t*")
        self._c.size = ffi.sizeof("ncclEpTensor_t")
        self._c.magic = constants["NCCL_EP_TENSOR_MAGIC"]
        self._c.ndim = self.ndim
        self._c.datatype = self.datatype
        self._c.data = ffi.cast("void*", self.ptr)
        self._c.sizes = self._c_sizes
        if self.window is not None:
            self._c.win_hdl = ffi.cast("ncclWindow_t", _address_of(self.window))
            self._c.win_offset = self.window_offset

    def __repr__(self) -> str:
        window = f", window_offset={self.window_offset}" if self.window is not None else ""
        return f"Tensor(shape={self.sizes}, datatype={self.datatype.name}{window})"


def _data_type(known: DataType | None, wanted: Any) -> DataType:
    if wanted is None:
        if known is None:
            raise TypeError("dtype is missing: an address or raw buffer does not know its data type")
        return known
    datatype = DataType.of(wanted)
    if known is not None and known.itemsize != datatype.itemsize:
        raise TypeError(
            f"dtype {datatype.name} has {datatype.itemsize} bytes, the memory's {known.name} {known.itemsize}"
        )
    return datatype


def _extents(known: tuple[int, ...] | None, wanted: int | Sequence[int] | None) -> tuple[int, ...]:
    if isinstance(wanted, (int, np.integer)):
        wanted = (int(wanted),)
    if wanted is None and known is None:
        raise TypeError("shape is missing: an address or raw buffer does not know its shape")
    extents = tuple(int(extent) for extent in (wanted if wanted is not None else known or ()))
    if not extents:
        raise ValueError("a tensor has at least one dimension; give shape=(1,) for a single value")
    return extents


def _offset_in(window: Any, ptr: int, num_bytes: int, offset: int | None) -> int:
    base, size = getattr(window, "user_ptr", None), getattr(window, "size", None)
    if offset is None:
        if base is None:
            raise TypeError("window_offset is missing: this window does not know its address")
        offset = ptr - int(base)
    if offset < 0 or (isinstance(size, int) and offset + num_bytes > size):
        of_window = f" of a window of {size} bytes" if isinstance(size, int) else " of its window"
        raise ValueError(
            f"the tensor's {num_bytes} bytes lie at byte {offset}{of_window}, expected them inside it"
        )
    return offset


def _address_of(window: Any) -> int:
    return int(getattr(window, "handle", window))

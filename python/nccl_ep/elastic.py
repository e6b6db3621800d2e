# SPDX-License-Identifier: Apache-2.0
"""ElasticBuffer: memory for received rows that begins on the GPU and goes on in the host."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from nccl_ep._checks import unsigned
from nccl_ep._closing import Closing
from nccl_ep._extensions import Extension, extension
from nccl_ep._ffi import constants


class _Elastic(Protocol):
    """What an :class:`ElasticBuffer` holds, on GPUs and on simulated ones."""

    ptr: int
    gpu_bytes: int
    host_bytes: int

    def close(self) -> None: ...


class ElasticBuffer(Closing):
    """Memory of which the front is on the GPU and the rest in the host, at one range of addresses.

    For the outputs of high-throughput dispatch, which must have room for the most rows that may arrive: the
    usual ones, which come first, lie on the GPU. Kernels use all of it alike, and the host's part at the
    speed of the link to it. It is given to calls as a plain tensor; it cannot be in a window.

    ``Tensor(buffer, dtype=..., shape=...)`` is a tensor of it from its beginning. PyTorch and CuPy see bytes:
    ``torch.as_tensor(buffer, device="cuda").view(torch.bfloat16)``.

    Leaving the ``with`` block frees the memory; what uses it must have finished.

    Args:
        gpu_bytes: at least so many on the GPU.
        host_bytes: at least so many in the host, near the GPU.
        device: number of the GPU among the visible ones, or a simulated rank.

    Attributes:
        ptr: the address; 0 once closed.
        gpu_bytes: how many there are: what was asked for, rounded up to what can be mapped, 2 MiB as a rule.
        host_bytes: the same, behind them.

    Raises:
        InvalidArgument: no such GPU, or no bytes.
        ValueError: a number of bytes is negative.
        InvalidUsage: the GPU or its host cannot do it.
        CudaError: the driver refuses, as when memory is used up.

    Example:
        >>> from nccl_ep import Tensor
        >>> from nccl_ep.sim import Cluster
        >>> def main(rank):
        ...     with ElasticBuffer(4096, 1, device=rank) as buffer:
        ...         tokens = Tensor(buffer, dtype="float32", shape=(32, 64))
        ...         return buffer.gpu_bytes, buffer.host_bytes, tokens
        >>> with Cluster(gpus_per_node=1) as cluster:
        ...     cluster.run(main)
        [(4096, 4096, Tensor(shape=(32, 64), datatype=FLOAT32))]
    """

    def __init__(self, gpu_bytes: int, host_bytes: int, *, device: Any = 0) -> None:
        self._elastic: _Elastic = (
            _OnGpu(gpu_bytes, host_bytes, device)
            if isinstance(device, int)
            else device.elastic(gpu_bytes, host_bytes)
        )
        self.ptr = self._elastic.ptr
        self.gpu_bytes, self.host_bytes = self._elastic.gpu_bytes, self._elastic.host_bytes
        self.device = device

    @property
    def num_bytes(self) -> int:
        """Both parts together."""
        return self.gpu_bytes + self.host_bytes

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return not self.ptr

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.closed:
            raise ValueError("the elastic buffer is closed")
        return {"data": (self.ptr, False), "shape": (self.num_bytes,), "typestr": "|u1", "version": 3}

    def close(self) -> None:
        """Frees the memory. Closing twice is harmless."""
        if not self.closed:
            self.ptr = 0
            self._elastic.close()

    def __del__(self) -> None:
        # Work that uses the memory may not have finished: say so and leave it.
        if getattr(self, "ptr", 0):
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        where = "closed" if self.closed else f"at {self.ptr:#x}"
        return f"<nccl_ep.ElasticBuffer {self.gpu_bytes} + {self.host_bytes} bytes {where}>"


class _OnGpu:
    """Memory of ``ncclEpElasticAlloc``."""

    def __init__(self, gpu_bytes: int, host_bytes: int, device: int) -> None:
        gpu_bytes = unsigned("gpu_bytes", gpu_bytes, bits=64)
        host_bytes = unsigned("host_bytes", host_bytes, bits=64)
        self._library: Extension = extension("nccl_ep_elastic.h")
        ffi, c = self._library.ffi, self._library.c
        self._c = ffi.new("ncclEpElasticMemory_t*")
        self._c.size, self._c.magic = ffi.sizeof("ncclEpElasticMemory_t"), constants["NCCL_EP_MAGIC"]
        self._library.check(c.ncclEpElasticAlloc(self._c, gpu_bytes, host_bytes, device))
        self.ptr = int(ffi.cast("uintptr_t", self._c.data))
        self.gpu_bytes, self.host_bytes = int(self._c.gpu_bytes), int(self._c.host_bytes)

    def close(self) -> None:
        self._library.check(self._library.c.ncclEpElasticFree(self._c))

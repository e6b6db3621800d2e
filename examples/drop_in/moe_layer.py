# SPDX-License-Identifier: Apache-2.0
"""An MoE layer in Low Latency and in High Throughput, with names of NVIDIA's ``nccl.ep`` alone.

``python moe_layer.py RANKS`` runs a process for each of the first GPUs, with NVIDIA's wheel nccl-extensions.
Which library it uses, that one's or ours, is decided outside: see README.md. Expert e multiplies by e + 1.
"""

from __future__ import annotations

import sys
from multiprocessing import get_context
from typing import Any

import nccl.ep as ep
import numpy as np

TOKENS, TOPK, HIDDEN, LOCAL_EXPERTS, STEPS = 16, 2, 512, 4, 2
WEIGHTS = np.array([0.25, 0.75], np.float32)
NCCL_TYPES = {"int32": 2, "int64": 4, "float32": 7}


class Gpu:
    """A GPU, with a communicator and a stream."""

    def __init__(self, rank: int, num_ranks: int, unique_id: Any) -> None:
        from cuda.core import Device
        from nccl.core import Communicator

        self.rank, self.num_ranks = rank, num_ranks
        self.device = Device(rank)
        self.device.set_current()
        self.stream = self.device.create_stream()
        self.comm = Communicator.init(num_ranks, rank, unique_id)

    def malloc(self, num_bytes: int) -> int:
        """Device memory's address. The process's end frees it."""
        return int(self._call("cuMemAlloc", num_bytes))

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        """Copies between host and device behind all that the stream has to do, and waits for it."""
        self.stream.sync()
        self._call("cuMemcpy", to, source, num_bytes)

    def _call(self, name: str, *arguments: int) -> Any:
        from cuda.bindings import driver

        result, *values = getattr(driver, name)(*arguments)
        if result != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{name}: {result.name}")
        return values[0] if values else None


class Array:
    """Numbers in device memory, and the tensor that describes them."""

    def __init__(self, gpu: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.gpu = gpu
        self.values = np.zeros(shape, dtype)  # what read and write copy
        self.address = gpu.malloc(self.values.nbytes)
        self.tensor = ep.Tensor(self.address, dtype=NCCL_TYPES[self.values.dtype.name], shape=shape)

    def write(self, values: Any) -> None:
        self.values[...] = values
        self.gpu.copy(self.address, self.values.ctypes.data, self.values.nbytes)

    def read(self) -> Any:
        self.gpu.copy(self.values.ctypes.data, self.address, self.values.nbytes)
        return self.values


class Layer:
    """A rank's own tokens, and what the layer makes of them."""

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        self.first_expert = gpu.rank * LOCAL_EXPERTS
        self.num_experts = gpu.num_ranks * LOCAL_EXPERTS
        self.tokens, self.combined = Array(gpu, (TOKENS, HIDDEN)), Array(gpu, (TOKENS, HIDDEN))
        self.topk_idx = Array(gpu, (TOKENS, TOPK), np.int64)
        self.topk_weights = Array(gpu, (TOKENS, TOPK))

    def fill(self, step: int) -> None:
        token, k = np.ogrid[:TOKENS, :TOPK]
        self.topk_idx.write((self.gpu.rank + step + 3 * token + 5 * k) % self.num_experts)
        self.topk_weights.write(WEIGHTS)
        token, i = np.ogrid[:TOKENS, :HIDDEN]
        self.tokens.write(64 * self.gpu.rank + token + i % 7)

    def check(self) -> None:
        """All numbers are small multiples of a quarter, so sums are exact in any order."""
        factors = (WEIGHTS * (self.topk_idx.values + 1)).sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(self.combined.read(), factors * self.tokens.values)


def low_latency(gpu: Any) -> None:
    """Expert-major: a zone of rows for each expert."""
    layer = Layer(gpu)
    rows = Array(gpu, (LOCAL_EXPERTS, gpu.num_ranks * TOKENS, HIDDEN))
    counters = Array(gpu, (LOCAL_EXPERTS,), np.int32)
    config = ep.GroupConfig(
        algorithm=ep.Algorithm.LOW_LATENCY,
        num_experts=layer.num_experts,
        max_dispatch_tokens_per_rank=TOKENS,
        max_token_bytes=HIDDEN * 4,
    )
    group = ep.Group.create(gpu.comm, config)
    layer.fill(0)
    handle = group.create_handle(ep.Layout.EXPERT_MAJOR, layer.topk_idx.tensor, stream=gpu.stream)
    for step in range(STEPS):
        layer.fill(step)
        handle.update(layer.topk_idx.tensor, stream=gpu.stream)
        handle.dispatch(
            ep.DispatchInputs(tokens=layer.tokens.tensor),
            ep.DispatchOutputs(tokens=rows.tensor),
            layout_info=ep.LayoutInfo(expert_counters=counters.tensor),
            stream=gpu.stream,
        )
        for expert, (zone, count) in enumerate(zip(rows.read(), counters.read(), strict=True)):
            zone[:count] *= layer.first_expert + expert + 1
        rows.write(rows.values)
        handle.combine(
            ep.CombineInputs(tokens=rows.tensor),
            ep.CombineOutputs(tokens=layer.combined.tensor, topk_weights=layer.topk_weights.tensor),
            config=ep.CombineConfig(send_only=1),
            stream=gpu.stream,
        )
        handle.complete(stream=gpu.stream)
        layer.check()
    handle.destroy()
    group.destroy()


def high_throughput(gpu: Any) -> None:
    """Flat: a row for each token, with the ids and weights of its experts here."""
    layer, budget = Layer(gpu), gpu.num_ranks * TOKENS
    rows, weights = Array(gpu, (budget, HIDDEN)), Array(gpu, (budget, TOPK))
    experts, total = Array(gpu, (budget, TOPK), np.int64), Array(gpu, (1,), np.int32)
    config = ep.GroupConfig(
        algorithm=ep.Algorithm.HIGH_THROUGHPUT,
        num_experts=layer.num_experts,
        max_dispatch_tokens_per_rank=TOKENS,
        max_recv_tokens_per_rank=budget,
        max_token_bytes=HIDDEN * 4,
        num_topk=TOPK,
    )
    group = ep.Group.create(gpu.comm, config)
    layer.fill(0)
    counted = ep.LayoutInfo(recv_total_counter=total.tensor)
    table = layer.topk_idx.tensor
    handle = group.create_handle(ep.Layout.FLAT, table, layout_info=counted, stream=gpu.stream)
    for step in range(STEPS):
        layer.fill(step)
        handle.update(table, layout_info=counted, stream=gpu.stream)
        handle.dispatch(
            ep.DispatchInputs(tokens=layer.tokens.tensor, topk_weights=layer.topk_weights.tensor),
            ep.DispatchOutputs(tokens=rows.tensor, topk_weights=weights.tensor, topk_idx=experts.tensor),
            stream=gpu.stream,
        )
        is_here = experts.read() >= 0
        factors = np.where(is_here, weights.read() * (layer.first_expert + experts.values + 1), 0).sum(axis=1)
        count = int(total.read()[0])
        rows.read()[:count] *= factors[:count, np.newaxis]
        rows.write(rows.values)
        combined = ep.CombineOutputs(tokens=layer.combined.tensor)
        handle.combine(ep.CombineInputs(tokens=rows.tensor), combined, stream=gpu.stream)
        layer.check()
    handle.destroy()
    group.destroy()


def run_layers(gpu: Any) -> None:
    low_latency(gpu)
    high_throughput(gpu)
    place = f"rank {gpu.rank} of {gpu.num_ranks}"
    print(f"{place}: both layers are right, with version {ep.get_lib_version()} of {ep.get_lib_path()}")


def run_rank(rank: int, num_ranks: int, unique_id: Any) -> None:
    gpu = Gpu(rank, num_ranks, unique_id)
    run_layers(gpu)
    gpu.comm.destroy()


def main() -> int:
    from nccl.core import get_unique_id

    num_ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    spawn, unique_id = get_context("spawn"), get_unique_id()
    ranks = [spawn.Process(target=run_rank, args=(rank, num_ranks, unique_id)) for rank in range(num_ranks)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return max(abs(rank.exitcode or 0) for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())

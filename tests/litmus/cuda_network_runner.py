# SPDX-License-Identifier: Apache-2.0
"""Litmus programs of the network on real GPUs. Needs NCCL with GIN: NICs, or the GPUs of one host under
``python -m nccl_ep.loopback``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from contract import GIN_CONTEXTS, GIN_COUNTERS, GIN_SIGNALS, WORDS, judge, pack_args
from cuda_cluster import CudaCluster, CudaRank, cuda, nccl, num_gpus
from cuda_network import device_communicator, gin_type
from cuda_runner import compile_kernels
from nccl_ep import jit, paths
from programs import Outcome, Program

SYMMETRIC_AND_STRICTLY_ORDERED = 1 | 2


class NetworkRunner:
    """All programs of a source file. Communicators are made once for each number of ranks."""

    def __init__(self, source: Path, includes: Sequence[Path], folder: Path) -> None:
        nccl()  # loaded first, so that the library takes the headers of this one
        self._source, self._includes, self._folder = source, includes, folder
        self._clusters: dict[int, CudaCluster] = {}

    def __enter__(self) -> NetworkRunner:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for cluster in self._clusters.values():
            cluster.close()

    def run(self, program: Program, seed: int) -> tuple[Outcome, str]:
        """How the program ended. The seed means nothing here: each run is a run."""
        if program.ranks > num_gpus():
            pytest.skip(f"needs {program.ranks} GPUs, here are {num_gpus()}")
        if program.ranks not in self._clusters:
            self._clusters[program.ranks] = CudaCluster(program.ranks)
        cluster = self._clusters[program.ranks]
        if 0 in cluster.run(gin_type):
            pytest.skip("NCCL has no GIN here; on one host, run under python -m nccl_ep.loopback")
        return judge(cluster.run(self._act, program, self._binary))

    @cached_property
    def _binary(self) -> bytes:
        options = jit.network_headers(self._folder / "headers")
        return compile_kernels(self._source, [*self._includes, paths.template_dir()], options)

    def _act(self, rank: CudaRank, program: Program, binary: bytes) -> npt.NDArray[Any]:
        memory, window = rank.symmetric(np.zeros(WORDS, np.uint32), SYMMETRIC_AND_STRICTLY_ORDERED)
        verdicts = rank.array(np.zeros((program.blocks * program.threads, 2), np.uint32))
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(module), binary)
        _call("cuModuleGetFunction", ctypes.byref(function), module, f"litmus_{program.name}".encode())
        with device_communicator(rank, GIN_CONTEXTS, GIN_SIGNALS, GIN_COUNTERS) as network:
            args = pack_args(memory.ptr, 0, verdicts.ptr, rank.rank, rank.num_ranks, network, window.handle)
            buffer = ctypes.create_string_buffer(args, len(args))
            parameters = (ctypes.c_void_p * 1)(ctypes.addressof(buffer))
            shape = (program.blocks, 1, 1, program.threads, 1, 1, program.shared_bytes)
            stream = rank.stream()
            rank.barrier()  # all memory is zeroed, and nothing is loaded or allocated while kernels wait
            _call("cuLaunchKernel", function, *shape, stream.ptr_, parameters, None)
            stream.synchronize()
            rank.barrier()
        result = rank.read(verdicts)
        _call("cuModuleUnload", module)
        return result


def _call(name: str, *args: object) -> None:
    result = getattr(cuda(), name)(*args)
    if result:
        raise RuntimeError(f"{name} failed with {result}")

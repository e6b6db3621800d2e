# SPDX-License-Identifier: Apache-2.0
"""The push probe: what the links carry when rows are pushed and nothing else. Part of every run on GPUs."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from nccl_ep import paths

from ep_bench.devices import driver, nccl, nvrtc
from ep_bench.devices.cuda import CudaDevice
from ep_bench.exits import UsageError
from ep_bench.statistics import slowest_rank

ROW_BYTES = 14_336
NUM_ROWS = 2_048  # for each peer, about: long enough that launches do not count
NUM_STAGES, NUM_WARPS, MAX_PEERS = 3, 2, 63  # as in push_probe.cu
BLOCKS_PER_PEER = 16
WARMUP, ITERATIONS = 10, 50


class _PushArgs(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_uint64),
        ("rows_per_block", ctypes.c_uint32),
        ("row_bytes", ctypes.c_uint32),
        ("num_peers", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("targets", ctypes.c_uint64 * MAX_PEERS),
    ]


def push_ceiling_gbps(device: CudaDevice, communicator: nccl.Communicator, max_sms: int = 0) -> float:
    """GB/s that each rank pushes to its peers, by the slowest rank, median of iterations. Collective.

    Each block serves one peer, and the first blocks of rank r serve rank r + 1, so that no rank is the target
    of all at once. All blocks push as many rows.

    Args:
        max_sms: blocks there may be; 0: enough.

    Raises:
        UsageError: there are more ranks than it can serve.
    """
    rank, num_ranks = communicator.rank, communicator.num_ranks
    if num_ranks - 1 > MAX_PEERS:
        raise UsageError(f"a team has {num_ranks} ranks, expected at most {MAX_PEERS + 1} for the push probe")
    shared_bytes = NUM_WARPS * NUM_STAGES * ROW_BYTES
    kernel = driver.Kernel(_binary(device.gpu.arch), "push_rows", shared_bytes)
    peers = [(rank + i) % num_ranks for i in range(1, num_ranks)]
    num_blocks = probe_blocks(len(peers), device.gpu.num_sms, max_sms)
    rows_per_block = -(-NUM_ROWS * len(peers) // num_blocks)
    most_rows = -(-num_blocks // len(peers)) * rows_per_block  # for one peer
    part_bytes = most_rows * ROW_BYTES
    window = nccl.Window(communicator, num_ranks * part_bytes)  # rank r's rows arrive at part r
    arguments = _PushArgs(window.ptr + rank * part_bytes, rows_per_block, ROW_BYTES, len(peers))
    for i, peer in enumerate(peers):
        arguments.targets[i] = window.peer_address(peer) + rank * part_bytes
    times = []
    start, end = device.event(), device.event()
    for _ in range(WARMUP + ITERATIONS):
        device.align_ranks()
        device.record(start)
        device.stream.launch(kernel, num_blocks, 32 * NUM_WARPS, shared_bytes, arguments)
        device.record(end)
        device.synchronize()
        times.append(end.microseconds_since(start))
    everyone = np.asarray(device.peers.all_gather(times[WARMUP:]))
    window.close()
    pushed = num_blocks * rows_per_block * ROW_BYTES
    return pushed / (float(np.median(slowest_rank(everyone))) * 1e3)


@cache
def _binary(arch: str) -> bytes:
    return nvrtc.compile_file(Path(__file__).with_name("push_probe.cu"), paths.template_dir(), arch)


def probe_blocks(num_peers: int, num_sms: int, max_sms: int) -> int:
    """Blocks of the probe: as many for each peer, unless there may be only so many in all."""
    enough = num_peers * max(1, min(BLOCKS_PER_PEER, num_sms // num_peers))
    return min(enough, max_sms) if max_sms else enough

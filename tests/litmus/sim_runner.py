# SPDX-License-Identifier: Apache-2.0
"""Litmus programs on the simulated cluster, compiled by the host compiler into a library."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contract import WORDS, judge, pack_args
from nccl_ep import paths, sim
from nccl_ep.sim._ffi import ffi, library
from programs import Outcome, Program

OUTCOMES = {
    sim.Failure.NONE: Outcome.CLEAN,
    sim.Failure.RACE: Outcome.RACE,
    sim.Failure.DEADLOCK: Outcome.DEADLOCK,
    sim.Failure.FAULT: Outcome.FAULT,
}


def compile_kernels(source: Path, target: Path, includes: list[Path], templates: Path | None = None) -> Path:
    """A shared library of kernels for the simulator, compiled as cmake/Simulator.cmake compiles its own.

    The sanitizer only instruments: its run-time library is not linked, since the simulator has the functions.
    """
    compiler = os.environ.get("CXX", "g++")
    folders = [*includes, templates or paths.template_dir(), paths.include_dir()]
    flags = ["-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden"]
    flags += ["-ffp-contract=off", "-fno-strict-aliasing"]
    instrument = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-Wno-tsan"]
    object_file = target.with_suffix(".o")
    compile_command = [compiler, *flags, *instrument, *(f"-I{folder}" for folder in folders)]
    compile_command += ["-x", "c++", "-c", str(source), "-o", str(object_file)]
    simulator = paths.sim_library()
    link_command = [compiler, "-shared", str(object_file), str(simulator), "-o", str(target), "-Wl,-z,defs"]
    link_command += ["-Wl,-Bsymbolic", f"-Wl,-rpath,{simulator.parent}"]
    for command in (compile_command, link_command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return target


def load_kernels(path: Path) -> None:
    """Registers the library's kernels with the simulator, in place of kernels of the same names."""
    library()
    ctypes.CDLL(str(path))


def launch(rank: sim.Rank, kernel: str, blocks: int, threads: int, shared_bytes: int, args: bytes) -> None:
    """Puts a kernel on the rank's default stream."""
    shape = (blocks, threads, shared_bytes)
    memory = ffi.from_buffer(args)
    rank._gpu.call("ncclEpSimLaunch", kernel.encode(), *shape, memory, len(args), ffi.NULL)


def run(program: Program, seed: int) -> tuple[Outcome, str]:
    """How the program ended, and what the simulator or the program itself had to say."""

    def make_args(rank: sim.Rank, window: sim.Window, _memory: int, verdicts: int) -> bytes:
        peers = [_peer_address(rank, window, peer) for peer in range(rank.num_ranks)]
        stride = peers[1] - peers[0] if len(peers) > 1 else 0
        return pack_args(peers[0], stride, verdicts, rank.rank, rank.num_ranks)

    return _run_on({"gpus_per_node": program.ranks}, program, seed, make_args)


class NetworkRunner:
    """Programs of the network, from a library that :func:`compile_kernels` has made of them."""

    def __init__(self, kernels: Path) -> None:
        load_kernels(kernels)
        self._library = ctypes.CDLL(str(kernels))
        self._library.litmus_open_network.restype = ctypes.c_void_p

    def run(self, program: Program, seed: int) -> tuple[Outcome, str]:
        """As :func:`run`, with every rank on a node of its own."""
        networks: list[ctypes.c_void_p] = []

        def make_args(rank: sim.Rank, window: sim.Window, memory: int, verdicts: int) -> bytes:
            handle = ctypes.c_uint64()
            comm = ctypes.c_void_p(rank.comm.ptr)
            opened = self._library.litmus_open_network(comm, ctypes.byref(handle))
            networks.append(ctypes.c_void_p(opened))
            return pack_args(memory, 0, verdicts, rank.rank, rank.num_ranks, handle.value, window.handle)

        def close() -> None:
            for network in networks:
                self._library.litmus_close_network(network)

        return _run_on({"nodes": program.ranks, "gpus_per_node": 1}, program, seed, make_args, close)


def _run_on(
    topology: dict[str, Any],
    program: Program,
    seed: int,
    make_args: Callable[[sim.Rank, sim.Window, int, int], bytes],
    close: Callable[[], None] = lambda: None,
) -> tuple[Outcome, str]:
    verdicts: list[npt.NDArray[Any]] = []

    def main(rank: sim.Rank) -> None:
        memory = rank.symmetric(WORDS, np.uint32)
        memory[...] = 0
        window = rank.register_window(memory)
        verdict = rank.zeros((program.blocks * program.threads, 2), np.uint32)
        args = make_args(rank, window, memory.ctypes.data, verdict.ctypes.data)
        rank.barrier()
        if program.after is not None:
            launch(rank, f"litmus_{program.after}", program.blocks, program.threads, 0, args)
        launch(rank, f"litmus_{program.name}", program.blocks, program.threads, program.shared_bytes, args)
        rank.synchronize()
        verdicts.append(verdict)

    options = {**topology, "sms": 4, "threads_per_block": max(32, program.threads), **program.options}
    with sim.Cluster(seed=seed, memory_bytes=1 << 24, **options) as cluster:
        try:
            cluster.run(main)
        except Exception:
            if cluster.failure is sim.Failure.NONE:
                raise
        finally:
            close()
        if cluster.failure is not sim.Failure.NONE:
            return OUTCOMES[cluster.failure], cluster.report
        return judge(verdicts)


def _peer_address(rank: sim.Rank, window: sim.Window, peer: int) -> int:
    address = ffi.new("void**")
    rank._gpu.call("ncclEpSimWindowPeer", window._c, peer, address)
    return int(ffi.cast("uintptr_t", address[0]))

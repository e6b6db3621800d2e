# SPDX-License-Identifier: Apache-2.0
"""Rows that are received in memory which begins on the GPU and ends in the host.

On the simulator, the host's part is device memory that is not counted as such: what is shown there is that
calls take such memory as it is, at any place of the border, and that it spares device memory. That kernels
reach the host is shown on GPUs.
"""

from __future__ import annotations

from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from ht import EM, FLAT, Exchange, Mode, Shape, check, group_config, make_problem
from ht_runs import exchange

MODES = [
    Mode(FLAT, elastic=True),
    Mode(FLAT, elastic=True, budget=32, backward=True),
    Mode(EM, elastic=True, budget=64, alignment=4),
    Mode(EM, elastic=True, backward=True),
]
PAGE = 4096  # of the simulator
MEMORY = 32 * 2**20  # of a simulated GPU


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_rows_on_both_sides_of_the_border(make_cluster: Any, mode: Mode, seed: int) -> None:
    problem = make_problem(Shape(num_topk=2, hidden=64, max_tokens=12, tokens=(12, 9)), seed)
    check(problem, mode, make_cluster(2, seed).run(exchange, problem, mode))


def test_a_buffer_is_a_tensor(make_cluster: Any, device: str, seed: int) -> None:
    """Dispatch into a buffer; combine from there brings the sum of each token's copies home."""
    problem = make_problem(Shape(num_topk=2, hidden=64, max_tokens=12, tokens=(12, 9)), seed)
    mode = Mode(FLAT, budget=32)

    def main(rank: Any) -> Any:
        gpu = rank.sim if device == "sim" else rank.rank
        with (
            ep.ElasticBuffer(1024, 16 * problem.hidden * 4, device=gpu) as buffer,
            ep.Group(rank.comm, group_config(problem, mode)) as group,
        ):
            mine = Exchange(rank, problem, mode)
            rows = ep.Tensor(buffer, dtype=problem.dtype, shape=(32, problem.hidden))
            handle = mine.make_handle(group)
            handle.dispatch(
                ep.DispatchInputs(mine.tokens, mine.topk_weights),
                ep.DispatchOutputs(rows, mine.received_weights, topk_idx=mine.received_idx),
            )
            handle.combine(ep.CombineInputs(rows), ep.CombineOutputs(mine.combined))
            return rank.read(mine.combined)

    results = make_cluster(2, seed).run(main)
    for rank, combined in enumerate(results):
        owners = [
            {int(expert) // problem.num_local_experts for expert in routes if expert >= 0}
            for routes in problem.topk_idx[rank]
        ]
        copies = np.array([len(ranks) for ranks in owners], np.float32)[:, None]
        tokens = problem.tokens[rank].astype(np.float32)
        np.testing.assert_array_equal(combined, (copies * tokens).astype(problem.dtype))


# ---- The simulator's ----


@pytest.mark.sim_only
def test_the_host_spares_device_memory(make_cluster: Any) -> None:
    """What is too large for the rest of a GPU's memory fits with its end in the host."""

    def main(rank: Any) -> None:
        rank.sim.symmetric(3 * MEMORY // 4, np.uint8)
        with pytest.raises(ep.SystemFailure, match="cannot allocate 16777216 bytes of device memory"):
            rank.sim.empty(MEMORY // 2, np.uint8)
        with pytest.raises(ep.SystemFailure, match="12582912 bytes of device memory and behind them 4194304"):
            ep.ElasticBuffer(3 * MEMORY // 8, MEMORY // 8, device=rank.sim)
        with ep.ElasticBuffer(MEMORY // 8, 3 * MEMORY // 8, device=rank.sim) as buffer:
            assert buffer.num_bytes == MEMORY // 2

    make_cluster(1, memory_bytes=MEMORY).run(main)


@pytest.mark.sim_only
def test_both_parts_are_counted_and_given_back(make_cluster: Any) -> None:
    def main(rank: Any) -> None:
        before = cluster.sim.usage(rank.rank)
        buffer = ep.ElasticBuffer(PAGE + 1, 1, device=rank.sim)
        assert (buffer.gpu_bytes, buffer.host_bytes, buffer.num_bytes) == (2 * PAGE, PAGE, 3 * PAGE)
        during = cluster.sim.usage(rank.rank)
        assert during["device_bytes"] - before["device_bytes"] == 2 * PAGE
        assert during["host_bytes"] - before["host_bytes"] == PAGE
        buffer.close()
        buffer.close()
        assert cluster.sim.usage(rank.rank) == before
        with pytest.raises(ValueError, match="no memory any more"):
            ep.Tensor(buffer, dtype="uint8", shape=(1,))

    cluster = make_cluster(1)
    cluster.run(main)


@pytest.mark.sim_only
def test_what_cannot_be(make_cluster: Any) -> None:
    def main(rank: Any) -> None:
        with pytest.raises(ep.InvalidArgument, match="gpu_bytes: is 0, as host_bytes is"):
            ep.ElasticBuffer(0, 0, device=rank.sim)
        with pytest.raises(ep.InvalidArgument, match="gpu_bytes: is 18446744073709551615, expected at most"):
            ep.ElasticBuffer(2**64 - 1, 0, device=rank.sim)
        with pytest.raises(ep.InvalidArgument, match="host_bytes: is 18446744073709547520, expected at most"):
            ep.ElasticBuffer(PAGE, 2**64 - PAGE, device=rank.sim)
        with ep.ElasticBuffer(PAGE, PAGE, device=rank.sim) as buffer:
            with pytest.raises(ValueError, match="8193 bytes, the memory has 8192"):
                ep.Tensor(buffer, dtype="uint8", shape=(8193,))
            with pytest.raises(TypeError, match="dtype is missing"):
                ep.Tensor(buffer, shape=(4,))
            with pytest.raises(ep.Error, match="memory"):
                rank.sim.register_window(rank.sim.elastic(PAGE, PAGE).array)

    make_cluster(1).run(main)


# ---- GPUs' ----


def test_both_parts_hold_what_is_written(device: str, make_cluster: Any) -> None:
    if device != "cuda":
        pytest.skip("needs GPUs: --device cuda")

    def main(rank: Any) -> None:
        with ep.ElasticBuffer(1, 1, device=rank.rank) as buffer:
            assert buffer.gpu_bytes == buffer.host_bytes > 0
            assert buffer.gpu_bytes % 2**16 == 0
        values = np.arange(2**20, dtype=np.uint32)
        for on_gpu in (0, 16, values.nbytes // 2, values.nbytes - 16):
            memory = rank.elastic(values, on_gpu)
            np.testing.assert_array_equal(rank.read(memory), values)
        with pytest.raises(ep.InvalidArgument, match="device: is 999, expected a number below"):
            ep.ElasticBuffer(1, 1, device=999)
        with pytest.raises(ep.CudaError, match="on the GPU"):
            ep.ElasticBuffer(2**45, 0, device=rank.rank)

    make_cluster(2).run(main)

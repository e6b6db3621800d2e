# SPDX-License-Identifier: Apache-2.0
"""The simulated cluster's Python face: ranks and threads, memory, streams, graphs, failures, traffic."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from typing import Any

import ml_dtypes
import nccl_ep as ep
import numpy as np
import pytest
from nccl_ep import sim

pytestmark = pytest.mark.sim_only


def test_run_returns_what_each_rank_returns() -> None:
    with sim.Cluster(gpus_per_node=3) as cluster:
        assert cluster.run(lambda rank, word: f"{word} {rank.rank} of {rank.num_ranks}", "rank") == [
            "rank 0 of 3",
            "rank 1 of 3",
            "rank 2 of 3",
        ]
        assert cluster.run(lambda rank: rank.rank) == [0, 1, 2]  # and again


def test_the_first_failure_is_raised_with_its_rank() -> None:
    def main(rank: sim.Rank) -> None:
        if rank.rank == 1:
            raise ValueError("of my own")
        rank.barrier()  # which rank 1 never comes to

    with sim.Cluster(gpus_per_node=3, seed=5) as cluster:
        with pytest.raises(ValueError, match="of my own") as failure:
            cluster.run(main)
        assert "on simulated rank 1 of 3, seed 5" in failure.value.__notes__[0]
        assert cluster.failure in (sim.Failure.NONE, sim.Failure.HOST_DEADLOCK)


def test_the_cause_is_raised_and_not_what_it_led_to() -> None:
    def main(rank: sim.Rank) -> None:
        if rank.rank == 1:
            raise ep.RemoteError(6, "rank 0 does not answer")
        with pytest.raises(ep.Error):
            rank.barrier()  # until rank 1 has left, its exception recorded
        raise ValueError("of my own")

    with sim.Cluster(gpus_per_node=2) as cluster:
        with pytest.raises(ValueError, match="of my own") as failure:
            cluster.run(main)
        notes = failure.value.__notes__
        assert notes[0].startswith("on simulated rank 0 of 2")
        assert "rank 1 raised RemoteError: rank 0 does not answer (ncclRemoteError, 6)" in notes


def test_an_exception_inside_a_group_is_raised_though_others_wait_in_vain() -> None:
    config = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)

    def main(rank: sim.Rank) -> None:
        topk_idx, x = rank.zeros((4, 1), np.int64), rank.zeros((4, 16))
        rows, counts = rank.zeros((2, 8, 16)), rank.zeros(2, np.int32)
        with ep.Group(rank, config) as group, group.create_handle(ep.Layout.EXPERT_MAJOR, topk_idx) as handle:
            if rank.rank == 0:
                raise ValueError("of my own")
            info = ep.LayoutInfo(expert_counters=counts)
            handle.dispatch(ep.DispatchInputs(x), ep.DispatchOutputs(rows), layout_info=info)
            rank.synchronize()
            handle.combine(ep.CombineInputs(rows), ep.CombineOutputs(x, rank.zeros((4, 1))))

    for seed in range(1, 6):
        with sim.Cluster(gpus_per_node=2, seed=seed) as cluster, pytest.raises(ValueError, match="of my own"):
            cluster.run(main)


def test_a_host_deadlock_is_reported() -> None:
    def main(rank: sim.Rank) -> None:
        if rank.rank == 0:
            rank.barrier()

    with sim.Cluster(gpus_per_node=2) as cluster:
        with pytest.raises(ep.Error) as failure:
            cluster.run(main)
        assert cluster.failure == sim.Failure.HOST_DEADLOCK
        assert cluster.report
        assert cluster.report in str(failure.value)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, "float16", ml_dtypes.bfloat16])
def test_memory_is_numpy(dtype: Any) -> None:
    def main(rank: sim.Rank) -> None:
        array = rank.array(np.arange(6).reshape(2, 3), dtype)
        assert array.dtype == np.dtype(dtype)
        assert array.shape == (2, 3)
        assert array.ctypes.data % 256 == 0
        assert (array == np.arange(6).reshape(2, 3).astype(dtype)).all()
        assert (rank.full(4, 7, dtype) == np.asarray(7, dtype)).all()
        assert rank.empty((0, 5), dtype).size == 0
        assert not rank.zeros((3,), dtype).any()

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_data_types_have_numpy_types() -> None:
    def main(rank: sim.Rank) -> None:
        for datatype in ep.DataType:
            assert rank.empty(3, datatype).nbytes == 3 * datatype.itemsize

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_arrays_outlive_their_cluster() -> None:
    with sim.Cluster(gpus_per_node=2) as cluster:
        arrays = cluster.run(lambda rank: rank.full(1000, rank.rank, np.int32))
    del cluster
    gc.collect()
    assert [array.sum() for array in arrays] == [0, 1000]


def test_memory_goes_with_its_cluster_and_does_not_wait_for_the_collector() -> None:
    config = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)

    def main(rank: sim.Rank) -> None:
        memory = rank.symmetric(64)
        window, stream = rank.register_window(memory), rank.stream()
        elastic = rank.elastic(64, 64)
        with rank.capture(stream) as graph:
            stream.fill(memory, 0)
        stream.wait(graph.stream.record())
        with ep.Group(rank, config) as group, group.init_handle(ep.Layout.EXPERT_MAJOR, 2) as handle:
            handle.complete()
        elastic.close()
        window.close()

    gc.disable()
    try:
        with sim.Cluster(gpus_per_node=2) as cluster:
            cluster.run(main)
            owner = weakref.ref(cluster._open_owner())
        assert owner() is None
    finally:
        gc.enable()


def test_free_gives_memory_back() -> None:
    def main(rank: sim.Rank) -> None:
        before = cluster.usage(rank.rank)["device_bytes"]
        array, window_memory = rank.empty(1 << 16, np.uint8), rank.symmetric(64)
        assert cluster.usage(rank.rank)["device_bytes"] >= before + (1 << 16)
        rank.free(array)
        rank.free_symmetric(window_memory)
        assert cluster.usage(rank.rank)["device_bytes"] == before
        with pytest.raises(ep.Error):
            rank.free(np.zeros(4))

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_streams_run_in_order_and_events_order_streams() -> None:
    def main(rank: sim.Rank) -> None:
        one, other = rank.stream(), rank.stream()
        source, middle, target = (rank.full(64, i, np.int32) for i in range(3))
        one.copy(middle, source)
        other.wait(one.record())
        other.copy(target, middle)
        done = other.record()
        done.synchronize()
        assert done.query()
        assert other.query()
        assert not target.any()
        one.fill(target, 1)
        rank.synchronize()
        assert (target == 0x01010101).all()
        one.close()
        one.close()

    with sim.Cluster(gpus_per_node=2) as cluster:
        cluster.run(main)


def test_graphs_replay() -> None:
    def main(rank: sim.Rank) -> None:
        source, target = rank.zeros(8, np.int32), rank.zeros(8, np.int32)
        with rank.capture() as graph:
            graph.stream.copy(target, source)
        assert not target.any()
        for value in (3, 4):
            source[...] = value
            graph.launch()
            graph.stream.synchronize()
            assert (target == value).all()
        graph.close()
        graph.close()

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_host_memory_given_to_a_kernel_is_a_fault() -> None:
    config = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)
    names = "topk_idx", "x", "rows", "counts", "y", "weights"

    def main(rank: sim.Rank, on_host: str) -> None:
        made = (
            rank.zeros((4, 2), np.int64),
            rank.zeros((4, 16)),
            rank.zeros((2, 8, 16)),
            rank.zeros(2, np.int32),
            rank.zeros((4, 16)),
            rank.zeros((4, 2)),
        )
        given = {
            name: np.array(array) if name == on_host else array
            for name, array in zip(names, made, strict=True)
        }
        with ep.Group(rank, config) as group:
            handle = group.create_handle(ep.Layout.EXPERT_MAJOR, given["topk_idx"])
            info = ep.LayoutInfo(expert_counters=given["counts"])
            outputs = ep.DispatchOutputs(given["rows"])
            handle.dispatch(ep.DispatchInputs(given["x"]), outputs, layout_info=info)
            handle.combine(ep.CombineInputs(given["rows"]), ep.CombineOutputs(given["y"], given["weights"]))
            rank.synchronize()

    for name in names:
        with sim.Cluster(gpus_per_node=2) as cluster:
            with pytest.raises(ep.Error, match=r"memory of the host\), expected device memory of rank"):
                cluster.run(main, name)
            assert cluster.failure == sim.Failure.FAULT, name


def test_a_graph_of_a_closed_group_is_a_fault() -> None:
    config = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)

    def main(rank: sim.Rank) -> None:
        topk_idx, x = rank.zeros((4, 1), np.int64), rank.zeros((4, 16))
        rows, counts = rank.zeros((2, 8, 16)), rank.zeros(2, np.int32)
        with (
            ep.Group(rank, config) as group,
            group.create_handle(ep.Layout.EXPERT_MAJOR, topk_idx) as handle,
            rank.capture() as graph,
        ):
            info = ep.LayoutInfo(expert_counters=counts)
            outputs = ep.DispatchOutputs(rows)
            handle.dispatch(ep.DispatchInputs(x), outputs, layout_info=info, stream=graph.stream)
        graph.launch()
        rank.synchronize()

    with sim.Cluster(gpus_per_node=2) as cluster:
        with pytest.raises(ep.Error, match="not allocated"):
            cluster.run(main)
        assert cluster.failure == sim.Failure.FAULT


def test_what_is_closed_is_not_used() -> None:
    def main(rank: sim.Rank) -> None:
        stream, array = rank.stream(), rank.zeros(4)
        window = rank.register_window(rank.symmetric(4))
        stream.close()
        window.close()
        for use in (
            stream.synchronize,
            lambda: stream.fill(array, 1),
            lambda: stream.handle,
            lambda: window.handle,
        ):
            with pytest.raises(RuntimeError, match="is closed"):
                use()
        rank.default_stream.close()
        rank.default_stream.synchronize()

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_copies_of_unequal_size_are_refused() -> None:
    def main(rank: sim.Rank) -> None:
        with pytest.raises(ValueError, match="target has 16 bytes, source 8"):
            rank.default_stream.copy(rank.empty(16, np.uint8), rank.empty(8, np.uint8))

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_all_gather() -> None:
    with sim.Cluster(gpus_per_node=3) as cluster:
        gathered = cluster.run(lambda rank: rank.all_gather(np.array([rank.rank, 10], np.int16)))
    assert all((found == [[0, 10], [1, 10], [2, 10]]).all() for found in gathered)


def test_all_gather_is_for_numbers() -> None:
    def main(rank: sim.Rank) -> None:
        for values in ([object()], ["text", "longer"], [rank, None], b"bytes", np.array([{}])):
            with pytest.raises(TypeError, match="expected an array of numbers"):
                rank.all_gather(values)
        assert rank.all_gather(np.array([1, 2], ml_dtypes.bfloat16)).tolist() == [[1, 2]] * 2
        assert rank.all_gather([True, False]).dtype == bool

    with sim.Cluster(gpus_per_node=2) as cluster:
        cluster.run(main)


def test_shapes_are_numbers_of_any_kind() -> None:
    def main(rank: sim.Rank) -> None:
        assert rank.empty(np.int64(5)).shape == (5,)
        assert rank.zeros((np.int32(2), 3)).shape == (2, 3)
        assert rank.empty([4, np.uint8(2)]).shape == (4, 2)
        with pytest.raises(ValueError, match="no negative extents"):
            rank.empty((2, -1))
        with pytest.raises(TypeError):
            rank.empty(2.5)  # type: ignore[arg-type]

    with sim.Cluster(gpus_per_node=1) as cluster:
        cluster.run(main)


def test_windows() -> None:
    def main(rank: sim.Rank) -> None:
        memory = rank.symmetric((4, 4))
        window = rank.register_window(memory)
        assert window.handle
        assert window.user_ptr == memory.ctypes.data
        assert window.size == memory.nbytes
        rank.barrier()
        window.close()
        window.close()
        rank.free_symmetric(memory)

    with sim.Cluster(gpus_per_node=2) as cluster:
        cluster.run(main)


def test_an_offset_beyond_the_window_is_refused() -> None:
    config = ep.GroupConfig(ep.Algorithm.HIGH_THROUGHPUT, 4, 4, 8, 64)

    def main(rank: sim.Rank) -> None:
        window = rank.register_window(rank.symmetric((8, 16)))
        topk_idx = rank.array(np.arange(8).reshape(4, 2) % 4)
        weights, ids = rank.zeros((8, 2)), rank.zeros((8, 2), np.int64)
        inputs = ep.DispatchInputs(rank.zeros((4, 16)), rank.zeros((4, 2)))
        with ep.Group(rank, config) as group, group.create_handle(ep.Layout.FLAT, topk_idx) as handle:
            outside = ep.Tensor(rank.zeros((8, 16)), window=window.handle, window_offset=1 << 20)
            with pytest.raises(ep.InvalidArgument, match="offset of 1048576 into a window of 512 bytes"):
                handle.dispatch(inputs, ep.DispatchOutputs(outside, weights, topk_idx=ids))

    with sim.Cluster(gpus_per_node=2) as cluster:
        cluster.run(main)


def test_traffic_has_a_cell_for_each_link() -> None:
    with sim.Cluster(gpus_per_node=3) as cluster:
        traffic = cluster.traffic()
        assert traffic.shape == (3, 3)
        assert {"bytes", "stores", "gin_puts"} <= set(traffic.dtype.names or ())
        assert not traffic["bytes"].any()
        cluster.reset_traffic()


def test_config_and_repr() -> None:
    with sim.Cluster(nodes=2, gpus_per_node=2, seed=9, sms=3) as cluster:
        assert cluster.num_ranks == 4
        assert cluster.seed == 9
        assert cluster.config["sms_per_gpu"] == 3
        assert cluster.config["memory_bytes"] > 0
        assert repr(cluster) == "<nccl_ep.sim.Cluster of 4 ranks, seed 9>"
    assert repr(cluster).endswith("closed>")
    cluster.close()
    with pytest.raises(RuntimeError, match="closed"):
        cluster.run(lambda rank: None)


def test_the_seed_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_EP_SIM_SEED", "31")
    with sim.Cluster(gpus_per_node=1) as cluster:
        assert cluster.seed == 31


def test_an_impossible_cluster_is_refused() -> None:
    with pytest.raises(ep.Error, match="lsa_team_size"):
        sim.Cluster(gpus_per_node=4, lsa_team_size=3)


@pytest.mark.parametrize("shape", [{"gpus_per_node": 0}, {"nodes": 0}, {"nodes": -1}])
def test_a_cluster_of_no_ranks_is_refused(shape: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        sim.Cluster(**shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 0}, "seed is 0, expected at least 1"),  # not another name of seed 1
        ({"seed": -1}, "seed is -1, expected at least 1"),
        ({"seed": 1 << 64}, "seed is 18446744073709551616, expected at most 18446744073709551615"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"sms": -1}, "sms is -1, expected at least 0"),
        ({"sms": 1 << 32}, "sms is 4294967296, expected at most 4294967295"),
        ({"memory_bytes": -1}, "memory_bytes is -1, expected at least 0"),
        ({"stores": "late"}, "stores is 'late', expected a member of Stores"),
        ({"schedule": None}, "schedule is None, expected a member of Schedule"),
    ],
    ids=str,
)
def test_options_that_are_wrong_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(says)}$"):
        sim.Cluster(gpus_per_node=1, **options)


def test_faults_that_are_wrong_are_named() -> None:
    with sim.Cluster(gpus_per_node=np.int64(1), seed=np.uint8(3)) as cluster:  # numbers of any kind
        assert (cluster.num_ranks, cluster.seed) == (1, 3)
        for name, call in {
            "after": lambda: cluster.silence(0, after=-1),
            "steps": lambda: cluster.delay(0, -1),
            "first_warp": lambda: cluster.stop_warps(0, first_warp=-1),
            "gpu_bytes": lambda: ep.ElasticBuffer(-1, 1, device=cluster.enter(0)),
        }.items():
            with pytest.raises(ValueError, match=f"^{name} is -1, expected at least 0$"):
                call()
        with pytest.raises(ValueError, match=r"^after is -1, expected at least 0$"):
            cluster.wake(0, after=-1)


FORKING = """
import os, sys
import numpy as np
from nccl_ep import Group, GroupConfig, Layout, sim

cluster = sim.Cluster(gpus_per_node=2)
assert cluster.run(lambda rank: rank.rank) == [0, 1]
config = GroupConfig(num_experts=2, max_dispatch_tokens_per_rank=1, max_token_bytes=64)
group, other = cluster.run(lambda rank: Group(rank.comm, config))
experts = np.zeros((1, 1), np.int64)
child = os.fork()
if child == 0:
    calls = {
        "run": lambda: cluster.run(lambda rank: rank.barrier()),
        "handle": lambda: group.create_handle(Layout.RANK_MAJOR, experts),
        "group": lambda: Group(group.comm, config),
    }
    for name, call in calls.items():
        try:
            call()
        except Exception as failure:
            print(name, failure)
    group.close()
    other.close()
    with sim.Cluster(gpus_per_node=2) as own:
        print(own.run(lambda rank: rank.all_gather(rank.rank).tolist()))
    sys.exit()
os.waitpid(child, 0)
cluster.run(lambda rank: (group, other)[rank.rank].close())
"""


def test_a_cluster_stays_with_the_process_that_made_it() -> None:
    command = [sys.executable, "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for call in ("run", "handle", "group"):
        assert re.search(rf"^{call} .*the cluster was made before fork\(\)", done.stdout, re.MULTILINE)
    assert "[[0, 1], [0, 1]]" in done.stdout


def test_a_silent_rank_can_wake() -> None:
    def main(rank: sim.Rank) -> None:
        memory = rank.zeros(4, np.uint8)
        rank.barrier()
        if rank.rank == 0:
            cluster.silence(1)
            cluster.wake(1, after=1)  # for which its own host does not wait
        rank.barrier()
        if rank.rank == 1:
            rank.default_stream.fill(memory, 1)
            with pytest.raises(ep.SystemFailure):
                rank.synchronize()
            cluster.wake(1)
            rank.synchronize()
            assert memory.all()

    with sim.Cluster(gpus_per_node=2) as cluster:
        cluster.run(main)

# SPDX-License-Identifier: Apache-2.0
"""The Python layer itself: declarations, configurations, streams, communicators, errors and lifetimes."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from nccl_ep import paths
from nccl_ep._declarations import read_declarations
from nccl_ep._pairing import CStruct, paired_with
from nccl_ep.errors import error_of
from nccl_ep.foreign import communicator_address, stream_address
from nccl_ep.interop import torch as interop

EM = ep.Layout.EXPERT_MAJOR
CONFIG = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)


# ---- Declarations ----


def test_the_reader_obeys_the_preprocessor(tmp_path: Path) -> None:
    (tmp_path / "inner.h").write_text("#pragma once\ntypedef int inner;\n")
    (tmp_path / "outer.h").write_text(
        """
        #ifndef GUARD
        #define GUARD
        #include <nowhere.h>
        #include "inner.h"
        #include "inner.h"
        #define SIZE 0x10u
        #define LONG_ONE(a, b) \\
          _Static_assert(sizeof(a) == (b), "no")
        #if defined(__cplusplus) && !defined(SIZE)
        extern "C" {
        #elif SIZE >= 16
        inner kept(void);  // a comment
        #else
        inner dropped(void);
        #endif
        LONG_ONE(inner, 4);
        typedef struct { char bytes[SIZE]; } __attribute__((aligned(8))) sized;
        #endif
        """
    )
    read = read_declarations([tmp_path / "outer.h"], tmp_path, {})
    assert " ".join(read.source.split()) == (
        "typedef int inner; inner kept(void); typedef struct { char bytes[0x10u]; } sized;"
    )
    assert read.constants["SIZE"] == 16


def test_all_functions_of_the_header_are_in_the_library() -> None:
    library = ep._ffi.default_library()
    header = (paths.include_dir() / "nccl_ep.h").read_text()
    names = {
        word for word in header.replace("(", " ").split() if word.startswith("ncclEp") and word.isalnum()
    }
    functions = {name for name in names if f"ncclResult_t {name}(" in header or f"char* {name}(" in header}
    assert len(functions) == 20
    for name in functions:
        assert getattr(library.c, name)


def test_version() -> None:
    assert str(ep.get_lib_version()) == "0.2.0"
    assert ep.get_lib_path().name == "libnccl_ep.so.0"
    assert ep.get_lib_path().parent == paths.library_dir()


def test_a_library_can_be_loaded_twice() -> None:
    assert ep.Library(ep.get_lib_path()).version() == (0, 2, 0)
    with pytest.raises(OSError, match="no_such"):
        ep.Library("/no_such/libnccl_ep.so.0")


def test_a_group_of_another_library(make_cluster: Any, tmp_path: Path) -> None:
    copy = tmp_path / "lib" / "another.so"
    copy.parent.mkdir()
    copy.write_bytes(ep.get_lib_path().read_bytes())
    (tmp_path / "jit_templates").symlink_to(paths.template_dir())  # where it looks for its kernels
    other = ep.Library(copy)
    assert other.c.ncclEpGetVersion != ep._ffi.default_library().c.ncclEpGetVersion

    def main(rank: Any) -> bool:
        with ep.Group(rank.comm, CONFIG, library=other) as group:
            return group.library is other

    assert make_cluster(2).run(main) == [True, True]


# ---- The package ----


def test_the_version_is_that_of_the_library() -> None:
    assert ep.__version__ == str(ep.get_lib_version())


def test_paths_are_printed_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-m", "nccl_ep.paths", "library"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (str(paths.library()), "")


# ---- Configurations ----


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.num_experts = 8  # type: ignore[misc]


def test_a_configuration_fills_its_struct() -> None:
    c = ep.GroupConfig(num_experts=6, timeout_ns=5, enable_mask=True, zero_copy=ep.ZeroCopyMode.ON).c
    assert (c.size, c.magic, c.version) == (120, 0xC00FFFEE, 2)
    assert (c.num_experts, c.timeout_ns, c.enable_mask, c.zero_copy) == (6, 5, 1, 2)


def test_a_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(OverflowError, match=r"GroupConfig\.num_experts: -4"):
        ep.GroupConfig(num_experts=-4)


@pytest.mark.parametrize(
    ("field", "value"), [("num_experts", 8.5), ("num_experts", "8"), ("algorithm", "ll"), ("alloc", None)]
)
def test_a_value_of_another_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"GroupConfig\.{field}: {value!r} is no "):
        ep.GroupConfig(**{field: value})


def test_whole_numbers_of_any_type_are_taken() -> None:
    config = ep.GroupConfig(num_experts=np.int64(8), timeout_ns=1e9, enable_mask=np.bool_(True).item())
    assert (config.c.num_experts, config.c.timeout_ns, config.c.enable_mask) == (8, 10**9, 1)


@pytest.mark.parametrize(
    "config",
    [
        ep.GroupConfig(num_experts=6, zero_copy=ep.ZeroCopyMode.ON),
        ep.HandleConfig(8),
        ep.DispatchConfig(quantization_recipe=ep.DispatchQuantizationRecipe.FWD),
        ep.CapabilityQuery(ep.Operation.COMBINE, hidden=64, datatype="float16"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_configurations_are_copied_and_sent(config: Any) -> None:
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert bytes(ep._ffi.ffi.buffer(other.c)) == bytes(ep._ffi.ffi.buffer(config.c))


def test_a_dataclass_that_differs_from_its_struct_is_found_at_import() -> None:
    @dataclasses.dataclass(frozen=True)
    class Drifted(CStruct):
        send_only: bool = False
        round_scales: bool = False
        passdirection: int = 0
        quant_recipe: int = 0

    with pytest.raises(ImportError, match="pass_direction"):
        paired_with("ncclEpDispatchConfig_t")(Drifted)


def test_allocator_functions_are_kept_alive() -> None:
    config = ep.AllocConfig(ep.AllocFn(lambda *_: 2), ep.FreeFn(lambda *_: 0))
    assert config.alloc_fn
    assert config.free_fn
    assert config.alloc_fn != config.free_fn
    assert ep.GroupConfig(alloc=config).alloc is config


# ---- Streams and communicators ----


@pytest.mark.parametrize(
    ("stream", "address"),
    [
        (None, 0),
        (4096, 4096),
        (SimpleNamespace(cuda_stream=1), 1),
        (SimpleNamespace(ptr=2), 2),
        (SimpleNamespace(handle=3), 3),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 4), ptr=5), 4),
    ],
)
def test_streams(stream: Any, address: int) -> None:
    assert stream_address(stream) == address


@pytest.mark.parametrize("thing", [True, "stream", object()])
def test_what_is_no_stream(thing: Any) -> None:
    with pytest.raises(TypeError, match="is no stream"):
        stream_address(thing)


@pytest.mark.parametrize(
    "comm", [4096, SimpleNamespace(ptr=4096), SimpleNamespace(comm=SimpleNamespace(value=4096))]
)
def test_communicators(comm: Any) -> None:
    address, owner = communicator_address(comm)
    assert address == 4096
    assert owner is comm


@pytest.mark.parametrize("thing", [True, "comm", object(), None])
def test_what_is_no_communicator(thing: Any) -> None:
    with pytest.raises(TypeError, match="is no communicator"):
        communicator_address(thing)


# ---- Errors ----


def test_errors_have_code_and_message() -> None:
    error = error_of(4, "config.num_experts: is 0")
    assert type(error) is ep.InvalidArgument
    assert (error.code, error.message) == (4, "config.num_experts: is 0")
    assert str(error) == "config.num_experts: is 0 (ncclInvalidArgument, 4)"
    assert type(error_of(77, "")) is ep.Error


def test_messages_of_threads_do_not_mix() -> None:
    messages: dict[int, str] = {}
    barrier = threading.Barrier(4)

    def fail(thread: int) -> None:
        barrier.wait()
        for _ in range(50):
            try:
                ep.Group(0, dataclasses.replace(CONFIG, num_experts=thread))
            except ep.InvalidArgument as failure:
                messages[thread] = failure.message

    threads = [threading.Thread(target=fail, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("comm" in message for message in messages.values())


def test_errors_are_sent_to_other_processes() -> None:
    sent = pickle.loads(pickle.dumps(ep.InvalidArgument(4, "num_experts: is 7")))
    assert type(sent) is ep.InvalidArgument
    assert (sent.code, sent.message, str(sent)) == (
        4,
        "num_experts: is 7",
        "num_experts: is 7 (ncclInvalidArgument, 4)",
    )


def test_arrays_in_place_of_inputs_are_named(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle, rows = group.init_handle(ep.Layout.EXPERT_MAJOR, 2), rank.array(np.zeros((4, 16), np.float32))
        with pytest.raises(TypeError, match="inputs is a ndarray, expected DispatchInputs"):
            handle.dispatch(rows, rows)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="outputs is a DispatchInputs, expected DispatchOutputs"):
            handle.dispatch(ep.DispatchInputs(rows), ep.DispatchInputs(rows))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="outputs is a CombineInputs, expected CombineOutputs"):
            handle.combine(ep.CombineInputs(rows), ep.CombineInputs(rows))  # type: ignore[arg-type]

    lone(make_cluster, act)


def test_arguments_of_another_type_are_named(make_cluster: Any) -> None:
    def act(rank: Any, group: Any) -> None:
        rows, table = rank.array(np.zeros((4, 16), np.float32)), rank.array(np.zeros((4, 2), np.int64))
        handle = group.create_handle(EM, table)
        sent = ep.DispatchInputs(rows), ep.DispatchOutputs(rows)
        added = ep.CombineInputs(rows), ep.CombineOutputs(rows)
        other = ep.CombineConfig()
        for says, call in {
            "config is a dict, expected GroupConfig": lambda: ep.Group(rank, {}),  # type: ignore[arg-type]
            "config is None, expected GroupConfig": lambda: ep.Group(rank, None),  # type: ignore[arg-type]
            "layout is 'em', expected a member of Layout": lambda: group.create_handle("em", table),
            "layout is None, expected a member of Layout": lambda: group.init_handle(None, 2),
            "layout is 1.5, expected a member of Layout": lambda: group.handle_mem_size(1.5, 2),
            "num_topk is '2', expected a whole number": lambda: group.init_handle(EM, "2"),
            "config is a dict, expected HandleConfig or None": lambda: group.init_handle(EM, 2, config={}),
            "query is None, expected CapabilityQuery": lambda: group.capabilities(EM, None),
            "layout_info is a str, expected LayoutInfo or None": lambda: handle.update(
                table, layout_info="x"
            ),
            "layout_info is a dict, expected LayoutInfo or None": lambda: handle.dispatch(
                *sent, layout_info={}
            ),
            "config is a CombineConfig, expected DispatchConfig or None": lambda: handle.dispatch(
                *sent, config=other
            ),
            "config is a DispatchConfig, expected CombineConfig or None": lambda: handle.combine(
                *added, config=ep.DispatchConfig()
            ),
            "config is a CombineConfig, expected CompleteConfig or None": lambda: handle.complete(
                config=other
            ),
        }.items():
            with pytest.raises(TypeError, match=f"^{says}$"):
                call()

    lone(make_cluster, act)


# ---- Lifetimes ----


def lone(make_cluster: Any, act: Any) -> Any:
    """Runs ``act(rank, group)`` on a cluster of one rank; closes the group if it is still open."""

    def main(rank: Any) -> Any:
        with ep.Group(rank.comm, CONFIG) as group:
            return act(rank, group)

    return make_cluster(1).run(main)[0]


def test_closing_twice_is_harmless(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle = group.init_handle(ep.Layout.EXPERT_MAJOR, 2)
        handle.close()
        handle.close()
        group.close()
        group.destroy()

    lone(make_cluster, act)


def test_a_closed_object_says_so(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle = group.init_handle(ep.Layout.RANK_MAJOR, 2)
        assert "rank-major, top-2" in repr(handle)
        assert "4 experts" in repr(group)
        group.close()  # and its handles with it
        assert repr(handle) == "<nccl_ep.Handle closed>"
        assert handle.ptr == 0
        assert repr(group) == "<nccl_ep.Group closed>"
        assert group.ptr == 0
        with pytest.raises(ep.InvalidUsage, match="the handle is closed"):
            handle.complete()
        with pytest.raises(ep.InvalidUsage, match="the group is closed"):
            group.init_handle(ep.Layout.RANK_MAJOR, 2)

    lone(make_cluster, act)


def test_a_handle_holds_its_group_and_routing(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle = group.create_handle(ep.Layout.EXPERT_MAJOR, rank.array(np.zeros((3, 2), np.int32)))
        assert handle.group is group
        table, _ = handle._routing
        assert table.sizes == (3, 2)
        assert handle.num_topk == 2

    lone(make_cluster, act)


def test_a_dropped_handle_is_freed(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle = group.init_handle(ep.Layout.EXPERT_MAJOR, 2)
        del handle
        group.close()  # would be refused with a handle left

    lone(make_cluster, act)


def test_a_failure_that_no_call_has_raised_is_raised_at_the_end(make_cluster: Any) -> None:
    def main(rank: Any, ask: bool) -> str:
        group = ep.Group(rank.comm, CONFIG)
        handle = group.create_handle(ep.Layout.EXPERT_MAJOR, rank.array(np.full((3, 2), 4)))
        rows, counts = rank.array(np.zeros((4, 4, 16), np.float32)), rank.array(np.zeros(4, np.int32))
        inputs, outputs = ep.DispatchInputs(rows[0, :3]), ep.DispatchOutputs(rows)
        handle.dispatch(inputs, outputs, layout_info=ep.LayoutInfo(expert_counters=counts))
        rank.synchronize()
        if ask:
            assert isinstance(group.async_error(), ep.InvalidArgument)
        try:
            group.close()
        except ep.InvalidArgument as failure:
            assert group.closed
            return failure.message
        return ""

    assert "expert 4" in make_cluster(1).run(main, False)[0]
    assert make_cluster(1).run(main, True)[0] == ""


def test_a_group_that_is_not_destroyed_stays_open(make_cluster: Any) -> None:
    def main(rank: Any) -> None:
        group = ep.Group(rank.comm, CONFIG)
        handle = group.create_handle(EM, rank.array(np.full((3, 2), 4)))
        group._handles.clear()  # so that it is nobody's
        rows, counts = rank.array(np.zeros((4, 4, 16), np.float32)), rank.array(np.zeros(4, np.int32))
        inputs, outputs = ep.DispatchInputs(rows[0, :3]), ep.DispatchOutputs(rows)
        handle.dispatch(inputs, outputs, layout_info=ep.LayoutInfo(expert_counters=counts))
        rank.synchronize()
        with pytest.raises(ep.InvalidUsage, match="has 1 handles"):
            group.close()
        assert not group.closed
        handle.close()
        with pytest.raises(ep.InvalidArgument, match="expert 4"):  # which is told when it ends
            group.close()
        assert group.closed

    make_cluster(1).run(main)


class FakeProcessGroup:
    """What tells PyTorch's process groups from other communicators."""

    def _get_backend(self) -> None: ...


@pytest.mark.parametrize("mask", [False, True])
def test_a_group_of_a_process_group_ends_with_its_communicator(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch, mask: bool
) -> None:
    """With masks NCCL would wait for ranks that are lost."""

    def main(rank: Any) -> None:
        destroyed = []
        comm = SimpleNamespace(
            ptr=communicator_address(rank.comm)[0],
            nranks=1,
            destroy=lambda: destroyed.append(group.closed if group else None),
        )
        monkeypatch.setattr(interop, "get_nccl_comm_from_group", lambda _: comm)
        group: Any = None
        with pytest.raises(ep.InvalidArgument, match="num_experts"):
            ep.Group(FakeProcessGroup(), dataclasses.replace(CONFIG, num_experts=0))
        assert destroyed == [None]

        destroyed.clear()
        group = ep.Group(FakeProcessGroup(), dataclasses.replace(CONFIG, enable_mask=mask))
        assert group.comm is comm
        assert not destroyed
        group.close()
        group.close()
        assert destroyed == ([] if mask else [True])

        destroyed.clear()
        with ep.Group(comm, CONFIG):
            pass
        assert not destroyed  # which is the caller's

    make_cluster(1).run(main)


def test_the_end_of_a_group_hides_no_exception(make_cluster: Any) -> None:
    def act(rank: Any, group: ep.Group) -> None:
        handle = group.create_handle(ep.Layout.EXPERT_MAJOR, rank.array(np.full((3, 2), 4)))
        rows, counts = rank.array(np.zeros((4, 4, 16), np.float32)), rank.array(np.zeros(4, np.int32))
        inputs, outputs = ep.DispatchInputs(rows[0, :3]), ep.DispatchOutputs(rows)
        handle.dispatch(inputs, outputs, layout_info=ep.LayoutInfo(expert_counters=counts))
        rank.synchronize()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lone(make_cluster, act)


def test_the_collector_may_come_while_a_type_is_parsed(
    make_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cffi parses under a lock, which no finalizer may want."""
    from pycparser.c_parser import CParser

    parse = CParser.parse

    def collect_and_parse(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        return parse(*arguments, **options)

    def act(rank: Any, group: ep.Group) -> None:
        cycle: list[Any] = [group.init_handle(ep.Layout.EXPERT_MAJOR, 2)]
        cycle.append(cycle)
        del cycle
        ep._ffi.ffi.new("struct { int not_yet_seen; }*")

    gc.disable()
    try:
        monkeypatch.setattr(CParser, "parse", collect_and_parse)
        lone(make_cluster, act)
    finally:
        gc.enable()


def test_finalizers_look_nothing_up() -> None:
    library = ep.Library()  # of which no function has been called
    assert {"ncclEpHandleDestroy", "ncclEpGetLastError"} <= set(vars(library.c))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_group_never_closed_is_a_warning(make_cluster: Any) -> None:
    def main(rank: Any) -> None:
        group = ep.Group(rank.comm, CONFIG)
        with pytest.warns(ResourceWarning, match="never closed"):
            group.__del__()
        group.close()

    make_cluster(1).run(main)

# SPDX-License-Identifier: Apache-2.0
"""What the library shows to the linker: the C API and nothing else."""

from __future__ import annotations

import re

from nccl_ep import paths
from toolchain import exported_symbols

UPSTREAM = {
    *(
        "ncclEpGetVersion",
        "ncclEpTensorAlloc",
        "ncclEpTensorDestroy",
        "ncclEpCreateGroup",
        "ncclEpGroupDestroy",
    ),
    *("ncclEpHandleMemSize", "ncclEpInitHandle", "ncclEpUpdateHandle", "ncclEpCreateHandle"),
    *("ncclEpHandleDestroy", "ncclEpDispatch", "ncclEpCombine", "ncclEpComplete"),
    *("ncclEpMaskQuery", "ncclEpMaskUpdate", "ncclEpMaskClean", "ncclEpGetAsyncError", "ncclEpErrorClear"),
}
OWN = {
    *("ncclEpGetLastError", "ncclEpQueryCapabilities"),
    *("ncclEpJitWarmup", "ncclEpJitList", "ncclEpJitNetworkHeaders", "ncclEpJitClear"),
    *("ncclEpPlanMemory", "ncclEpPlanTraffic"),
    *("ncclEpElasticAlloc", "ncclEpElasticFree"),
}


def test_the_library_exports_the_api_and_nothing_else() -> None:
    assert exported_symbols(paths.library()) == UPSTREAM | OWN


def test_the_simulator_exports_its_api_and_what_kernels_compiled_for_it_call() -> None:
    symbols = exported_symbols(paths.sim_library())
    kernel_calls = r"_ZN7nccl_ep3sim(6device|15register_kernel)|_ZNK7nccl_ep3dev3Gin"
    assert {name for name in symbols if not re.match(rf"ncclEpSim|__tsan_|{kernel_calls}", name)} == set()


def test_the_loopback_plugin_exports_the_tables_that_nccl_looks_for() -> None:
    assert exported_symbols(paths.loopback_plugin()) == {"ncclRmaPlugin_v14", "ncclGinPlugin_v13"}


def test_every_declared_function_exists() -> None:
    for header, library in (("nccl_ep.h", paths.library()), ("nccl_ep_sim.h", paths.sim_library())):
        text = (paths.include_dir() / header).read_text()
        declared = set(re.findall(r"^(?:ncclResult_t|const char\*) (ncclEp\w+)\(", text, re.MULTILINE))
        assert declared, f"no function found in {header}"
        assert declared <= exported_symbols(library)

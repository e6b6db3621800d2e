# SPDX-License-Identifier: Apache-2.0
"""nccl_ep.h in C and C++: it compiles, and every size, offset and value is what existing binaries expect."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from toolchain import OWN_TYPES, STRICT, compile_program, print_values, real_header_flags, run_program

STANDARDS = ["c11", "c++17", "c++20"]

# Size, and offset of each field behind `size` at 0 and `magic` at 4.
STRUCTS: dict[str, tuple[int, dict[str, int]]] = {
    "ncclEpTensor_t": (
        48,
        {"ndim": 8, "datatype": 12, "data": 16, "win_hdl": 24, "win_offset": 32, "sizes": 40},
    ),
    "ncclEpTensorAllocConfig_t": (8, {}),
    "ncclEpGroupConfig_t": (
        120,
        {
            "version": 8,
            "algorithm": 12,
            "num_experts": 16,
            "max_dispatch_tokens_per_rank": 20,
            "max_recv_tokens_per_rank": 24,
            "max_token_bytes": 28,
            "rdma_buffer_size": 32,
            "num_qp_per_rank": 40,
            "num_channels": 44,
            "max_num_sms": 48,
            "alloc": 56,
            "enable_mask": 80,
            "timeout_ns": 88,
            "zero_copy": 96,
            "overflow_policy": 100,
            "num_topk": 104,
            "padding_v2": 108,
            "exact_combine": 112,
            "padding_v3": 116,
        },
    ),
    "ncclEpLayoutInfo_t": (
        56,
        {
            "expert_counters": 8,
            "src_rank_counters": 16,
            "expert_offsets": 24,
            "recv_total_counter": 32,
            "recv_topk_idx_kind": 40,
            "padding_v2": 44,
            "num_tokens": 48,
        },
    ),
    "ncclEpDispatchInputs_t": (32, {"tokens": 8, "topk_weights": 16, "scales": 24}),
    "ncclEpDispatchOutputs_t": (40, {"tokens": 8, "topk_weights": 16, "scales": 24, "topk_idx": 32}),
    "ncclEpCombineInputs_t": (32, {"tokens": 8, "topk_weights": 16, "scales": 24}),
    "ncclEpCombineOutputs_t": (24, {"tokens": 8, "topk_weights": 16}),
    "ncclEpHandleConfig_t": (16, {"dispatch_output_per_expert_alignment": 8}),
    "ncclEpDispatchConfig_t": (
        24,
        {"send_only": 8, "round_scales": 12, "pass_direction": 16, "quant_recipe": 20},
    ),
    "ncclEpCombineConfig_t": (20, {"send_only": 8, "pass_direction": 12, "quant_recipe": 16}),
    "ncclEpCompleteConfig_t": (8, {}),
    "ncclEpCapabilityQuery_t": (
        48,
        {
            "operation": 8,
            "pass_direction": 12,
            "quant_recipe": 16,
            "datatype": 20,
            "hidden": 24,
            "scales_datatype": 32,
            "num_scales": 36,
            "tokens_in_window": 40,
            "scales_in_window": 44,
        },
    ),
    "ncclEpCapabilities_t": (
        80,
        {
            "result": 8,
            "padding_v1": 12,
            "inputs_tokens": 16,
            "inputs_scales": 32,
            "outputs_tokens": 48,
            "outputs_scales": 64,
        },
    ),
}

# Sizes of all versions of each struct, oldest first.
VERSIONS = {
    "TENSOR": [48],
    "TENSOR_ALLOC_CONFIG": [8],
    "GROUP_CONFIG": [96, 112, 120],
    "LAYOUT_INFO": [40, 48, 56],
    "DISPATCH_INPUTS": [32],
    "DISPATCH_OUTPUTS": [40],
    "COMBINE_INPUTS": [24, 32],
    "COMBINE_OUTPUTS": [24],
    "HANDLE_CONFIG": [16],
    "DISPATCH_CONFIG": [20, 24],
    "COMBINE_CONFIG": [16, 20],
    "COMPLETE_CONFIG": [8],
    "CAPABILITY_QUERY": [48],
    "CAPABILITIES": [80],
}

CONSTANTS = {
    "NCCL_EP_VERSION_CODE": 200,
    "NCCL_EP_API_VERSION": 2,
    "NCCL_EP_MAGIC": 0xC00FFFEE,
    "NCCL_EP_TENSOR_MAGIC": 0xCAFECAFE,
    "NCCL_EP_AUTO": 0,
    "ncclFloat4x2": 12,
    "NCCL_EP_ALGO_LOW_LATENCY": 0,
    "NCCL_EP_ALGO_HIGH_THROUGHPUT": 1,
    "NCCL_EP_OVERFLOW_AUTO": 0,
    "NCCL_EP_OVERFLOW_TRAP": 1,
    "NCCL_EP_OVERFLOW_DROP": 2,
    "NCCL_EP_LAYOUT_UNSET": 0,
    "NCCL_EP_LAYOUT_EXPERT_MAJOR": 1,
    "NCCL_EP_LAYOUT_RANK_MAJOR": 2,
    "NCCL_EP_LAYOUT_FLAT": 3,
    "NCCL_EP_FWD_PASS": 0,
    "NCCL_EP_BWD_PASS": 1,
    "NCCL_EP_ZERO_COPY_AUTO": 0,
    "NCCL_EP_ZERO_COPY_OFF": 1,
    "NCCL_EP_ZERO_COPY_ON": 2,
    "NCCL_EP_EXPERT_ID_AUTO": 0,
    "NCCL_EP_EXPERT_ID_LOCAL": 1,
    "NCCL_EP_EXPERT_ID_GLOBAL": 2,
    "NCCL_EP_DISP_QUANT_NONE": 0,
    "NCCL_EP_DISP_QUANT_FWD": 1,
    "NCCL_EP_DISP_QUANT_DS_FP8E3M4": 2,
    "NCCL_EP_COMB_QUANT_NONE": 0,
    "NCCL_EP_COMB_QUANT_NVFP4": 1,
    "NCCL_EP_COMB_QUANT_FP8": 2,
    "NCCL_EP_OPERATION_UPDATE": 0,
    "NCCL_EP_OPERATION_DISPATCH": 1,
    "NCCL_EP_OPERATION_COMBINE": 2,
    "NCCL_EP_ROW_PATH_NONE": 0,
    "NCCL_EP_ROW_PATH_REFUSED": 1,
    "NCCL_EP_ROW_PATH_IN_PLACE": 2,
    "NCCL_EP_ROW_PATH_STAGED": 3,
    "NCCL_EP_ROW_PATH_DIRECT": 4,
}

ENUMS = [
    "ncclEpAlgorithm_t",
    "ncclEpOverflowPolicy_t",
    "ncclEpLayout_t",
    "ncclEpPassDir_t",
    "ncclEpZeroCopyMode_t",
    "ncclEpExpertIdKind_t",
    "ncclEpDispQuant_t",
    "ncclEpCombQuant_t",
    "ncclEpOperation_t",
    "ncclEpRowPath_t",
]

OWN_TYPE_NAMES = [
    "cudaError_t",
    "cudaStream_t",
    "ncclComm_t",
    "ncclWindow_t",
    "ncclResult_t",
    "ncclDataType_t",
]
OWN_TYPE_VALUES = [
    *("cudaSuccess", "cudaErrorInvalidValue", "cudaErrorMemoryAllocation"),
    *("ncclSuccess", "ncclUnhandledCudaError", "ncclSystemError", "ncclInternalError", "ncclInvalidArgument"),
    *("ncclInvalidUsage", "ncclRemoteError", "ncclInProgress", "ncclTimeout"),
    *("ncclInt8", "ncclUint8", "ncclInt32", "ncclUint32", "ncclInt64", "ncclUint64", "ncclFloat16"),
    *("ncclFloat32", "ncclFloat64", "ncclBfloat16", "ncclFloat8e4m3", "ncclFloat8e5m2"),
]


def expected_layout() -> dict[str, int]:
    values = {f"sizeof({enum})": 4 for enum in ENUMS}
    values |= {"sizeof(ncclEpAllocConfig_t)": 24, "sizeof(ncclEpTensorPath_t)": 16}
    values |= {
        f"offsetof(ncclEpAllocConfig_t,{f})": 8 * i for i, f in enumerate(["alloc_fn", "free_fn", "context"])
    }
    for struct, (size, fields) in STRUCTS.items():
        values[f"sizeof({struct})"] = size
        for field, offset in ({"size": 0, "magic": 4} | fields).items():
            values[f"offsetof({struct},{field})"] = offset
    for prefix, sizes in VERSIONS.items():
        values[f"NCCL_EP_{prefix}_SIZE"] = sizes[-1]
        values[f"NCCL_EP_{prefix}_CURRENT_VERSION"] = len(sizes)
        values |= {f"NCCL_EP_{prefix}_V{i}_SIZE": size for i, size in enumerate(sizes, start=1)}
    return values


INIT_PROGRAM = """
#include <string.h>
#include "nccl_ep.h"
#include "nccl_ep_sim.h"

#define CHECK_INIT(type, prefix, magic_value)                                  \\
  {                                                                            \\
    type made = prefix##_INIT, expected;                                       \\
    memset(&expected, 0, sizeof(expected));                                    \\
    expected.size = (unsigned int)sizeof(type);                                \\
    expected.magic = magic_value;                                              \\
    if (memcmp(&made, &expected, sizeof(made)) != 0) return __LINE__;          \\
  }

int main(void) {
  CHECK_INIT(ncclEpTensor_t, NCCL_EP_TENSOR, NCCL_EP_TENSOR_MAGIC)
  CHECK_INIT(ncclEpTensorAllocConfig_t, NCCL_EP_TENSOR_ALLOC_CONFIG, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpDispatchInputs_t, NCCL_EP_DISPATCH_INPUTS, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpDispatchOutputs_t, NCCL_EP_DISPATCH_OUTPUTS, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCombineInputs_t, NCCL_EP_COMBINE_INPUTS, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCombineOutputs_t, NCCL_EP_COMBINE_OUTPUTS, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpHandleConfig_t, NCCL_EP_HANDLE_CONFIG, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpDispatchConfig_t, NCCL_EP_DISPATCH_CONFIG, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCombineConfig_t, NCCL_EP_COMBINE_CONFIG, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCompleteConfig_t, NCCL_EP_COMPLETE_CONFIG, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCapabilityQuery_t, NCCL_EP_CAPABILITY_QUERY, NCCL_EP_MAGIC)
  CHECK_INIT(ncclEpCapabilities_t, NCCL_EP_CAPABILITIES, NCCL_EP_MAGIC)

  ncclEpGroupConfig_t group = NCCL_EP_GROUP_CONFIG_INIT;
  if (group.size != 120 || group.magic != NCCL_EP_MAGIC || group.version != 2) return __LINE__;
  if (group.num_experts != 0 || group.alloc.alloc_fn || group.timeout_ns != 0) return __LINE__;
  group.size = NCCL_EP_GROUP_CONFIG_V1_SIZE;
  if (NCCL_EP_HAS_FIELD(&group, ncclEpGroupConfig_t, num_topk)) return __LINE__;
  if (!NCCL_EP_HAS_FIELD(&group, ncclEpGroupConfig_t, timeout_ns)) return __LINE__;

  ncclEpSimConfig_t simulated;
  simulated = NCCL_EP_SIM_CONFIG_INIT;  // an expression, as the others are
  if (simulated.size != sizeof(simulated) || simulated.magic != NCCL_EP_SIM_MAGIC) return __LINE__;
  return 0;
}
"""

INLINE_INIT_PROGRAM = """
#include "nccl_ep.h"
int main(void) {
  size_t sizes[2] = {2, 3};
  ncclEpTensor_t tensor = {NCCL_EP_TENSOR_INIT_INLINE, .ndim = 2, .datatype = ncclInt32, .sizes = sizes};
  if (tensor.size != 48 || tensor.magic != NCCL_EP_TENSOR_MAGIC) return __LINE__;
  return !(tensor.ndim == 2 && tensor.data == NULL);
}
"""


@pytest.fixture
def real_headers() -> list[str]:
    flags = real_header_flags()
    if flags is None:
        pytest.skip(
            "needs the headers of the wheels nvidia-nccl-cu13, nvidia-cuda-runtime and nvidia-cuda-crt"
        )
    return flags


@pytest.mark.parametrize("standard", STANDARDS)
def test_layout_is_the_published_one(standard: str, tmp_path: Path) -> None:
    expected = expected_layout() | CONSTANTS
    program = print_values(list(expected), ['"nccl_ep.h"'])
    assert run_program(program, standard, OWN_TYPES + STRICT, tmp_path) == expected


@pytest.mark.parametrize("standard", STANDARDS)
def test_layout_is_the_same_with_the_real_headers(
    standard: str, tmp_path: Path, real_headers: list[str]
) -> None:
    expected = expected_layout() | CONSTANTS
    program = print_values(list(expected), ['"nccl_ep.h"'])
    assert run_program(program, standard, real_headers, tmp_path) == expected


@pytest.mark.parametrize("standard", ["c11", "c++17"])
def test_own_types_equal_the_real_ones(standard: str, tmp_path: Path, real_headers: list[str]) -> None:
    program = print_values(
        [*(f"sizeof({name})" for name in OWN_TYPE_NAMES), *OWN_TYPE_VALUES], ['"nccl_ep.h"']
    )
    own = run_program(program, standard, OWN_TYPES, tmp_path)
    assert own == run_program(program, standard, real_headers, tmp_path)


@pytest.mark.parametrize("standard", ["c11", "c++17"])
def test_the_layout_of_elastic_memory(standard: str, tmp_path: Path) -> None:
    fields = {"data": 8, "gpu_bytes": 16, "host_bytes": 24, "device": 32, "numa_node": 36}
    expected = {f"offsetof(ncclEpElasticMemory_t,{name})": offset for name, offset in fields.items()}
    expected |= {"sizeof(ncclEpElasticMemory_t)": 40, "NCCL_EP_ELASTIC_MEMORY_V1_SIZE": 40}
    program = print_values(list(expected), ['"nccl_ep_elastic.h"'])
    assert run_program(program, standard, OWN_TYPES + STRICT, tmp_path) == expected


@pytest.mark.parametrize("standard", STANDARDS)
def test_init_macros_set_size_and_magic_and_nothing_else(standard: str, tmp_path: Path) -> None:
    program = compile_program(INIT_PROGRAM, standard, OWN_TYPES + STRICT, tmp_path)
    assert subprocess.run([program]).returncode == 0, "the exit code is the line in INIT_PROGRAM"


@pytest.mark.parametrize("standard", ["c11", "c++20"])
def test_tensors_can_be_initialised_inline(standard: str, tmp_path: Path) -> None:
    flags = ["-Wall", "-Werror"]
    program = compile_program(INLINE_INIT_PROGRAM, standard, OWN_TYPES + flags, tmp_path)
    assert subprocess.run([program]).returncode == 0

// SPDX-License-Identifier: Apache-2.0
// The High-Throughput kernels for the simulated cluster, compiled from the very files that NVRTC compiles for GPUs.
#include "device/device.hpp"
#include "ht/combine.cuh"
#include "ht/combine_exact.cuh"
#include "ht/combine_quantized.cuh"
#include "ht/dispatch.cuh"
#include "ht/update.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_expert_major", ht::update<true>, HtUpdateArgs)
EP_SIM_KERNEL("ht_update_flat", ht::update<false>, HtUpdateArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major", ht::dispatch<true>, HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_scaled", (ht::dispatch<true, true>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat", ht::dispatch<false>, HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_scaled", (ht::dispatch<false, true>), HtDispatchArgs)
EP_SIM_KERNEL("ht_combine_expert_major_bf16", (ht::combine<true, DType::bf16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp16", (ht::combine<true, DType::fp16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp32", (ht::combine<true, DType::fp32>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_bf16", (ht::combine<false, DType::bf16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp16", (ht::combine<false, DType::fp16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp32", (ht::combine<false, DType::fp32>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact", ht::combine_exact<>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_quantized", ht::combine_quantized<>, HtCombineArgs)

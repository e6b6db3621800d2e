// SPDX-License-Identifier: Apache-2.0
// The High-Throughput kernels that use the network, for the simulated cluster.
#include "device/device.hpp"
#include "ht/combine_exact_remote.cuh"
#include "ht/combine_quantized_remote.cuh"
#include "ht/combine_remote.cuh"
#include "ht/dispatch_remote.cuh"
#include "ht/update_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_expert_major_remote", ht::update_remote<true>, HtUpdateArgs)
EP_SIM_KERNEL("ht_update_flat_remote", ht::update_remote<false>, HtUpdateArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_remote", ht::dispatch_remote<true>, HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_scaled_remote", (ht::dispatch_remote<true, true>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_remote", ht::dispatch_remote<false>, HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_scaled_remote", (ht::dispatch_remote<false, true>), HtDispatchArgs)
EP_SIM_KERNEL("ht_combine_expert_major_bf16_remote", (ht::combine_remote<true, DType::bf16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp16_remote", (ht::combine_remote<true, DType::fp16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp32_remote", (ht::combine_remote<true, DType::fp32>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_bf16_remote", (ht::combine_remote<false, DType::bf16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp16_remote", (ht::combine_remote<false, DType::fp16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp32_remote", (ht::combine_remote<false, DType::fp32>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_quantized_remote", ht::combine_quantized_remote<>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact_remote", ht::combine_exact_remote<>, HtCombineArgs)

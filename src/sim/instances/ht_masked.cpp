// SPDX-License-Identifier: Apache-2.0
// The High-Throughput kernels of groups with masks for the simulated cluster.
#include "device/device.hpp"
#include "ht/combine.cuh"
#include "ht/combine_exact.cuh"
#include "ht/combine_quantized.cuh"
#include "ht/dispatch.cuh"
#include "ht/update.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_expert_major_masked", (ht::update<true, Peers::masked_team>), HtUpdateArgs)
EP_SIM_KERNEL("ht_update_flat_masked", (ht::update<false, Peers::masked_team>), HtUpdateArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_masked", (ht::dispatch<true, false, Peers::masked_team>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_scaled_masked", (ht::dispatch<true, true, Peers::masked_team>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_masked", (ht::dispatch<false, false, Peers::masked_team>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_scaled_masked", (ht::dispatch<false, true, Peers::masked_team>), HtDispatchArgs)
EP_SIM_KERNEL("ht_combine_expert_major_bf16_masked", (ht::combine<true, DType::bf16, Peers::masked_team>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp16_masked", (ht::combine<true, DType::fp16, Peers::masked_team>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp32_masked", (ht::combine<true, DType::fp32, Peers::masked_team>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_bf16_masked", (ht::combine<false, DType::bf16, Peers::masked_team>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp16_masked", (ht::combine<false, DType::fp16, Peers::masked_team>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp32_masked", (ht::combine<false, DType::fp32, Peers::masked_team>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_quantized_masked", ht::combine_quantized<Peers::masked_team>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact_masked", ht::combine_exact<Peers::masked_team>, HtCombineArgs)

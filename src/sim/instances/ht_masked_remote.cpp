// SPDX-License-Identifier: Apache-2.0
// The High-Throughput kernels of groups with masks that use the network, for the simulated cluster.
#include "device/device.hpp"
#include "ht/clean_remote.cuh"
#include "ht/combine_exact_remote.cuh"
#include "ht/combine_quantized_remote.cuh"
#include "ht/dispatch_remote.cuh"
#include "ht/update_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_clean_remote", ht::clean_remote, HtCleanArgs)
EP_SIM_KERNEL("ht_update_expert_major_masked_remote", (ht::update_remote<true, Peers::masked_teams>), HtUpdateArgs)
EP_SIM_KERNEL("ht_update_flat_masked_remote", (ht::update_remote<false, Peers::masked_teams>), HtUpdateArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_masked_remote", (ht::dispatch_remote<true, false, Peers::masked_teams>),
              HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_scaled_masked_remote", (ht::dispatch_remote<true, true, Peers::masked_teams>),
              HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_masked_remote", (ht::dispatch_remote<false, false, Peers::masked_teams>),
              HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_scaled_masked_remote", (ht::dispatch_remote<false, true, Peers::masked_teams>),
              HtDispatchArgs)
EP_SIM_KERNEL("ht_combine_expert_major_bf16_masked_remote",
              (ht::combine_remote<true, DType::bf16, Peers::masked_teams>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp16_masked_remote",
              (ht::combine_remote<true, DType::fp16, Peers::masked_teams>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_fp32_masked_remote",
              (ht::combine_remote<true, DType::fp32, Peers::masked_teams>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_bf16_masked_remote", (ht::combine_remote<false, DType::bf16, Peers::masked_teams>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp16_masked_remote", (ht::combine_remote<false, DType::fp16, Peers::masked_teams>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_fp32_masked_remote", (ht::combine_remote<false, DType::fp32, Peers::masked_teams>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_quantized_masked_remote", ht::combine_quantized_remote<Peers::masked_teams>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact_masked_remote", ht::combine_exact_remote<Peers::masked_teams>, HtCombineArgs)

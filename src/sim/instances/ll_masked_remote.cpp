// SPDX-License-Identifier: Apache-2.0
// The Low-Latency kernels of groups with masks that use the network, for the simulated cluster.
#include "device/device.hpp"
#include "ll/clean_remote.cuh"
#include "ll/combine_exact_remote.cuh"
#include "ll/combine_nvfp4_remote.cuh"
#include "ll/dispatch_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_clean_remote", ll::clean_remote, LlCleanArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_masked_remote",
              (ll::dispatch_remote<Layout::expert_major, false, Peers::masked_teams>), LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_scaled_masked_remote",
              (ll::dispatch_remote<Layout::expert_major, true, Peers::masked_teams>), LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_masked_remote",
              (ll::dispatch_remote<Layout::rank_major, false, Peers::masked_teams>), LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_scaled_masked_remote",
              (ll::dispatch_remote<Layout::rank_major, true, Peers::masked_teams>), LlDispatchArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_masked_remote",
              (ll::combine_remote<Layout::expert_major, DType::bf16, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp16_masked_remote",
              (ll::combine_remote<Layout::expert_major, DType::fp16, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp32_masked_remote",
              (ll::combine_remote<Layout::expert_major, DType::fp32, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_masked_remote",
              (ll::combine_remote<Layout::rank_major, DType::bf16, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp16_masked_remote",
              (ll::combine_remote<Layout::rank_major, DType::fp16, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp32_masked_remote",
              (ll::combine_remote<Layout::rank_major, DType::fp32, false, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_scaled_masked_remote",
              (ll::combine_remote<Layout::expert_major, DType::bf16, true, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_scaled_masked_remote",
              (ll::combine_remote<Layout::rank_major, DType::bf16, true, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_expert_major_masked_remote",
              (ll::combine_nvfp4_remote<Layout::expert_major, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_rank_major_masked_remote",
              (ll::combine_nvfp4_remote<Layout::rank_major, Peers::masked_teams>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_exact_masked_remote", ll::combine_exact_remote<Peers::masked_teams>, LlCombineArgs)

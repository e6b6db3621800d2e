// SPDX-License-Identifier: Apache-2.0
// The Low-Latency kernels of groups with masks for the simulated cluster, and what cleans the masks of all.
#include "common/clean.cuh"
#include "device/device.hpp"
#include "ll/combine_exact.cuh"
#include "ll/combine_nvfp4.cuh"
#include "ll/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("clean", clean, CleanArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_masked", (ll::dispatch<Layout::expert_major, false, Peers::masked_team>),
              LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_scaled_masked", (ll::dispatch<Layout::expert_major, true, Peers::masked_team>),
              LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_masked", (ll::dispatch<Layout::rank_major, false, Peers::masked_team>),
              LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_scaled_masked", (ll::dispatch<Layout::rank_major, true, Peers::masked_team>),
              LlDispatchArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_masked",
              (ll::combine<Layout::expert_major, DType::bf16, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp16_masked",
              (ll::combine<Layout::expert_major, DType::fp16, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp32_masked",
              (ll::combine<Layout::expert_major, DType::fp32, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_masked",
              (ll::combine<Layout::rank_major, DType::bf16, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp16_masked",
              (ll::combine<Layout::rank_major, DType::fp16, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp32_masked",
              (ll::combine<Layout::rank_major, DType::fp32, false, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_scaled_masked",
              (ll::combine<Layout::expert_major, DType::bf16, true, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_scaled_masked",
              (ll::combine<Layout::rank_major, DType::bf16, true, Peers::masked_team>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_expert_major_masked", (ll::combine_nvfp4<Layout::expert_major, Peers::masked_team>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_rank_major_masked", (ll::combine_nvfp4<Layout::rank_major, Peers::masked_team>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_exact_masked", ll::combine_exact<Peers::masked_team>, LlCombineArgs)

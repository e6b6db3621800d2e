// SPDX-License-Identifier: Apache-2.0
// The Low-Latency kernels that use the network, for the simulated cluster.
#include "device/device.hpp"
#include "ll/combine_exact_remote.cuh"
#include "ll/combine_nvfp4_remote.cuh"
#include "ll/dispatch_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_dispatch_expert_major_remote", ll::dispatch_remote<Layout::expert_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_scaled_remote", (ll::dispatch_remote<Layout::expert_major, true>),
              LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_remote", ll::dispatch_remote<Layout::rank_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_scaled_remote", (ll::dispatch_remote<Layout::rank_major, true>), LlDispatchArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_remote", (ll::combine_remote<Layout::expert_major, DType::bf16>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp16_remote", (ll::combine_remote<Layout::expert_major, DType::fp16>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp32_remote", (ll::combine_remote<Layout::expert_major, DType::fp32>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_remote", (ll::combine_remote<Layout::rank_major, DType::bf16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp16_remote", (ll::combine_remote<Layout::rank_major, DType::fp16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp32_remote", (ll::combine_remote<Layout::rank_major, DType::fp32>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_scaled_remote",
              (ll::combine_remote<Layout::expert_major, DType::bf16, true>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_scaled_remote", (ll::combine_remote<Layout::rank_major, DType::bf16, true>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_expert_major_remote", ll::combine_nvfp4_remote<Layout::expert_major>, LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_rank_major_remote", ll::combine_nvfp4_remote<Layout::rank_major>, LlCombineArgs)
EP_SIM_KERNEL("ll_combine_exact_remote", ll::combine_exact_remote<>, LlCombineArgs)

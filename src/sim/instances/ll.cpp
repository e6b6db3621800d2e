// SPDX-License-Identifier: Apache-2.0
// The Low-Latency kernels for the simulated cluster, compiled from the very files that NVRTC compiles for GPUs.
#include "device/device.hpp"
#include "ll/combine.cuh"
#include "ll/combine_exact.cuh"
#include "ll/combine_nvfp4.cuh"
#include "ll/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_dispatch_expert_major", ll::dispatch<Layout::expert_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_expert_major_scaled", (ll::dispatch<Layout::expert_major, true>), LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major", ll::dispatch<Layout::rank_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major_scaled", (ll::dispatch<Layout::rank_major, true>), LlDispatchArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16", (ll::combine<Layout::expert_major, DType::bf16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp16", (ll::combine<Layout::expert_major, DType::fp16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_fp32", (ll::combine<Layout::expert_major, DType::fp32>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16", (ll::combine<Layout::rank_major, DType::bf16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp16", (ll::combine<Layout::rank_major, DType::fp16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_fp32", (ll::combine<Layout::rank_major, DType::fp32>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16_scaled", (ll::combine<Layout::expert_major, DType::bf16, true>),
              LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16_scaled", (ll::combine<Layout::rank_major, DType::bf16, true>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_expert_major", ll::combine_nvfp4<Layout::expert_major>, LlCombineArgs)
EP_SIM_KERNEL("ll_combine_nvfp4_rank_major", ll::combine_nvfp4<Layout::rank_major>, LlCombineArgs)
EP_SIM_KERNEL("ll_combine_exact", ll::combine_exact<>, LlCombineArgs)

// SPDX-License-Identifier: Apache-2.0
// The Low-Latency kernels that the scenarios use; compiled from mutated templates.
#include "ll/combine.cuh"
#include "ll/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_dispatch_expert_major", ll::dispatch<Layout::expert_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_dispatch_rank_major", ll::dispatch<Layout::rank_major>, LlDispatchArgs)
EP_SIM_KERNEL("ll_combine_expert_major_bf16", (ll::combine<Layout::expert_major, DType::bf16>), LlCombineArgs)
EP_SIM_KERNEL("ll_combine_rank_major_bf16", (ll::combine<Layout::rank_major, DType::bf16>), LlCombineArgs)

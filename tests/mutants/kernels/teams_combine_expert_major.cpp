// SPDX-License-Identifier: Apache-2.0
#include "ll/combine_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_combine_expert_major_bf16_masked_remote",
              (ll::combine_remote<Layout::expert_major, DType::bf16, false, Peers::masked_teams>), LlCombineArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_flat_bf16_masked_remote", (ht::combine_remote<false, DType::bf16, Peers::masked_teams>),
              HtCombineArgs)
EP_SIM_KERNEL("ht_combine_expert_major_bf16_masked_remote",
              (ht::combine_remote<true, DType::bf16, Peers::masked_teams>), HtCombineArgs)

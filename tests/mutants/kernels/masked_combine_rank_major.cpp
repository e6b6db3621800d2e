// SPDX-License-Identifier: Apache-2.0
#include "ll/combine.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_combine_rank_major_bf16_masked",
              (ll::combine<Layout::rank_major, DType::bf16, false, Peers::masked_team>), LlCombineArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ht/combine.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_flat_bf16_masked", (ht::combine<false, DType::bf16, Peers::masked_team>), HtCombineArgs)

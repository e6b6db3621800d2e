// SPDX-License-Identifier: Apache-2.0
#include "ht/combine.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_expert_major_bf16", (ht::combine<true, DType::bf16>), HtCombineArgs)
EP_SIM_KERNEL("ht_combine_flat_bf16", (ht::combine<false, DType::bf16>), HtCombineArgs)

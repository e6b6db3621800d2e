// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_flat_bf16_remote", (ht::combine_remote<false, DType::bf16>), HtCombineArgs)

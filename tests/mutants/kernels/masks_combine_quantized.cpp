// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_quantized.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_quantized_masked", ht::combine_quantized<Peers::masked_team>, HtCombineArgs)

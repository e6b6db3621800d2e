// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_exact.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_exact", ht::combine_exact<>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact_masked", ht::combine_exact<Peers::masked_team>, HtCombineArgs)

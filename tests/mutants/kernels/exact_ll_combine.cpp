// SPDX-License-Identifier: Apache-2.0
#include "ll/combine_exact.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_combine_exact", ll::combine_exact<>, LlCombineArgs)
EP_SIM_KERNEL("ll_combine_exact_masked", ll::combine_exact<Peers::masked_team>, LlCombineArgs)

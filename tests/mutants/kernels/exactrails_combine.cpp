// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_exact_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_exact_remote", ht::combine_exact_remote<>, HtCombineArgs)
EP_SIM_KERNEL("ht_combine_exact_masked_remote", ht::combine_exact_remote<Peers::masked_teams>, HtCombineArgs)

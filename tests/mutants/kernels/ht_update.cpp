// SPDX-License-Identifier: Apache-2.0
#include "ht/update.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_expert_major", ht::update<true>, HtUpdateArgs)
EP_SIM_KERNEL("ht_update_flat", ht::update<false>, HtUpdateArgs)

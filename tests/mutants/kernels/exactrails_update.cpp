// SPDX-License-Identifier: Apache-2.0
#include "ht/update_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_expert_major_remote", ht::update_remote<true>, HtUpdateArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ht/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_dispatch_expert_major", ht::dispatch<true>, HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat", ht::dispatch<false>, HtDispatchArgs)

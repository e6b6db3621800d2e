// SPDX-License-Identifier: Apache-2.0
#include "ht/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_dispatch_expert_major_scaled", (ht::dispatch<true, true>), HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_flat_scaled", (ht::dispatch<false, true>), HtDispatchArgs)

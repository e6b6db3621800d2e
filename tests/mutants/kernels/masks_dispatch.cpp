// SPDX-License-Identifier: Apache-2.0
#include "ht/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_dispatch_flat_masked", (ht::dispatch<false, false, Peers::masked_team>), HtDispatchArgs)

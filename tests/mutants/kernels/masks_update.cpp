// SPDX-License-Identifier: Apache-2.0
#include "ht/update.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_update_flat_masked", (ht::update<false, Peers::masked_team>), HtUpdateArgs)

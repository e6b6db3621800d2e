// SPDX-License-Identifier: Apache-2.0
#include "ht/dispatch_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_dispatch_flat_masked_remote", (ht::dispatch_remote<false, false, Peers::masked_teams>),
              HtDispatchArgs)
EP_SIM_KERNEL("ht_dispatch_expert_major_masked_remote", (ht::dispatch_remote<true, false, Peers::masked_teams>),
              HtDispatchArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ll/dispatch.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_dispatch_expert_major_masked", (ll::dispatch<Layout::expert_major, false, Peers::masked_team>),
              LlDispatchArgs)

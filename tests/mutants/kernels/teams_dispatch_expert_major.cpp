// SPDX-License-Identifier: Apache-2.0
#include "ll/dispatch_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_dispatch_expert_major_masked_remote",
              (ll::dispatch_remote<Layout::expert_major, false, Peers::masked_teams>), LlDispatchArgs)

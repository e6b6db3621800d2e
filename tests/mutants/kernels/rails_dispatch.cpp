// SPDX-License-Identifier: Apache-2.0
#include "ht/dispatch_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_dispatch_flat_remote", ht::dispatch_remote<false>, HtDispatchArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ll/combine_exact_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_combine_exact_remote", ll::combine_exact_remote<>, LlCombineArgs)

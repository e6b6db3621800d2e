// SPDX-License-Identifier: Apache-2.0
#include "ll/combine_nvfp4.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_combine_nvfp4_expert_major", ll::combine_nvfp4<Layout::expert_major>, LlCombineArgs)

// SPDX-License-Identifier: Apache-2.0
#include "ht/combine_quantized_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_combine_quantized_remote", ht::combine_quantized_remote<>, HtCombineArgs)

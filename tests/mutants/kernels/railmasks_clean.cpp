// SPDX-License-Identifier: Apache-2.0
#include "ht/clean_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ht_clean_remote", ht::clean_remote, HtCleanArgs)

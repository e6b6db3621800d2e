// SPDX-License-Identifier: Apache-2.0
#include "ll/clean_remote.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_clean_remote", ll::clean_remote, LlCleanArgs)

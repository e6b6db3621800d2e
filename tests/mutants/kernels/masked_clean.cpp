// SPDX-License-Identifier: Apache-2.0
#include "common/clean.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("clean", clean, CleanArgs)

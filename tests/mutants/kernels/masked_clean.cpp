// SPDX-License-Identifier: Apache-2.0
#include "device/device.hpp"
#include "ll/clean.cuh"

using namespace nccl_ep;

EP_SIM_KERNEL("ll_clean", ll::clean, LlCleanArgs)

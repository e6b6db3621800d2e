// SPDX-License-Identifier: Apache-2.0
// Cleaning masks in a Low-Latency group of several LSA teams.
#pragma once

#include "common/clean_remote.cuh"
#include "shared/ll_args.hpp"

namespace nccl_ep::ll {

EP_DEVICE void clean_remote(const LlCleanArgs& args) { nccl_ep::clean_remote(args); }

}  // namespace nccl_ep::ll

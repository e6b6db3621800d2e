// SPDX-License-Identifier: Apache-2.0
// Cleaning masks in a High-Throughput group of several LSA teams.
#pragma once

#include "common/clean_remote.cuh"
#include "shared/ht_args.hpp"

namespace nccl_ep::ht {

EP_DEVICE void clean_remote(const HtCleanArgs& args) { nccl_ep::clean_remote(args); }

}  // namespace nccl_ep::ht

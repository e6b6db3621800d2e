// SPDX-License-Identifier: Apache-2.0
// A communicator on paper: groups and handles can be made on it, so that their memory can be counted, but nothing runs.
#pragma once

#include <memory>

#include "runtime/runtime.hpp"

namespace nccl_ep::runtime {

// Bytes that were asked for, whether given back or not.
struct MemoryCount {
  size_t window = 0;
  size_t device = 0;
  size_t host = 0;
};

// Ranks and their LSA teams.
struct RanksOnPaper {
  uint32_t num_ranks = 0;
  uint32_t team_size = 0;  // a divisor of num_ranks
};

// Rank 0 of ranks that agree about everything. Counts into `count`, which must outlive it.
std::unique_ptr<Communicator> make_communicator_on_paper(const RanksOnPaper& ranks, const DeviceLimits& limits,
                                                         MemoryCount& count);

}  // namespace nccl_ep::runtime

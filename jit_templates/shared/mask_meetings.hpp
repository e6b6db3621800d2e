// SPDX-License-Identifier: Apache-2.0
// Where the ranks of a group meet to make all of them take part again (common/clean.cuh), and what a rank of one of several LSA
// teams keeps for those in the others.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

// In every window, from `begin` on: a unit for each phase and source.
struct MaskMeetings {
  static constexpr uint32_t kPhases = 2;

  uint64_t begin;
  uint32_t num_ranks;

  EP_HOST_DEVICE uint64_t at(uint32_t phase, uint32_t source) const {
    return begin + sizeof(Unit) * (uint64_t{phase} * num_ranks + source);
  }
  EP_HOST_DEVICE uint64_t end() const { return at(kPhases, 0); }
};

// In device memory.
struct MaskProgress {
  uint64_t last_sign;  // when this rank last showed other teams a sign of life
  uint32_t
      flushed_in_vain;  // Low Latency: how many ranks of other teams were masked when the network kept what was put to
                        // them
};

}  // namespace nccl_ep

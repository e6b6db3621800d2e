// SPDX-License-Identifier: Apache-2.0
// What a kernel needs to use the network (GIN); an argument made by the host.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

struct GinComm {
  uint64_t handle;  // the implementation's
  uint32_t rank;
  uint32_t num_ranks;
  uint32_t num_contexts;
  uint32_t num_signals;   // of each context
  uint32_t num_counters;  // of each context
};

}  // namespace nccl_ep

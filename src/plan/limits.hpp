// SPDX-License-Identifier: Apache-2.0
// What a launch may use of a device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shared/group_state.hpp"

namespace nccl_ep::plan {

struct Limits {
  uint32_t num_sms = 0;  // the device's, or the group's budget
  uint32_t max_threads_per_block = 0;
  size_t max_shared_bytes = 0;  // of a block

  // What kernels declare for themselves comes on top of a launch's shared memory.
  size_t max_dynamic_shared() const { return max_shared_bytes - kMaxStaticSharedBytes; }
};

}  // namespace nccl_ep::plan

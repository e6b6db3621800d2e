// SPDX-License-Identifier: Apache-2.0
// What a launch may use of a device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nccl_ep::plan {

struct Limits {
  uint32_t num_sms = 0;  // the device's, or the group's budget
  uint32_t max_threads_per_block = 0;
  size_t max_shared_bytes = 0;
};

}  // namespace nccl_ep::plan

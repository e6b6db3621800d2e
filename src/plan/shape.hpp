// SPDX-License-Identifier: Apache-2.0
// The sizes that a group of either algorithm fixes.
#pragma once

#include <cstdint>

namespace nccl_ep::plan {

struct Shape {
  uint32_t num_ranks = 0;
  uint32_t num_experts = 0;
  uint32_t max_tokens = 0;  // per rank
  uint32_t max_topk = 0;
  uint64_t max_row_bytes = 0;
  bool exact_combine = false;  // a row for each route travels home

  uint32_t num_local_experts() const { return num_experts / num_ranks; }
};

}  // namespace nccl_ep::plan

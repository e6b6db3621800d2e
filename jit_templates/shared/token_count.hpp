// SPDX-License-Identifier: Apache-2.0
// How many tokens a rank has in an operation.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

// The host knows how many there may be. How many there are may be up to device memory, when the kernels run.
struct TokenCount {
  uint32_t most;         // rows of the caller's tensors
  const int32_t* given;  // null: as many as rows
};

}  // namespace nccl_ep

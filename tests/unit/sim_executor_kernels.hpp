// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "shared/types.hpp"

namespace nccl_ep::test {

struct Args {
  PeerWindow memory;
  uint32_t rank;
  uint32_t num_ranks;
};

}  // namespace nccl_ep::test

// SPDX-License-Identifier: Apache-2.0
// What the operations send from rank to rank, piece by piece, by the sizes that the kernels use.
#pragma once

#include <vector>

#include "nccl_ep_plan.h"
#include "plan/ht_plan.hpp"
#include "plan/ll_plan.hpp"

namespace nccl_ep::plan {

// What a handle adds to the shape of its group.
struct HandleShape {
  Layout layout;
  uint32_t num_topk;
  bool into_windows;  // High Throughput: outputs of dispatch are in windows
};

// As the public struct, which says what the members mean.
struct TrafficPiece {
  const char* name;
  ncclEpOperation_t operation;
  ncclEpTrafficPath_t path;
  bool to_home = false;
  size_t bytes_per_peer = 0;
  std::vector<size_t> bytes_of_token;
  size_t alignment = 1;
  size_t messages_per_peer = 0;
  size_t tokens_per_message = 0;

  ncclEpTrafficPiece_t c() const {
    return {name,      operation,         path,
            to_home,   bytes_per_peer,    bytes_of_token.data(),
            alignment, messages_per_peer, tokens_per_message};
  }
};
using TrafficPieces = std::vector<TrafficPiece>;

// Rows have the group's largest size.
TrafficPieces traffic_of(const LlShape& group, const HandleShape& handle);
TrafficPieces traffic_of(const HtShape& group, const HandleShape& handle);

}  // namespace nccl_ep::plan

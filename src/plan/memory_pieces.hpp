// SPDX-License-Identifier: Apache-2.0
// Windows and handles, piece by piece, for people who want to know where memory goes.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/ht_plan.hpp"
#include "plan/ll_plan.hpp"

namespace nccl_ep::plan {

struct MemoryPiece {
  const char* name;
  uint64_t bytes;  // with what aligns the next piece
};
using MemoryPieces = std::vector<MemoryPiece>;

// Each adds up to the size of the window or the handle. Other LSA teams are called nodes, as users know them.
MemoryPieces window_pieces(const LlShape& shape);
MemoryPieces window_pieces(const HtShape& shape);
MemoryPieces handle_pieces(const LlShape& shape, Layout layout, uint32_t num_topk);
MemoryPieces handle_pieces(const HtShape& shape, Layout layout, uint32_t num_topk);

uint64_t total_bytes(const MemoryPieces& pieces);

}  // namespace nccl_ep::plan

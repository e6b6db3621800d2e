// SPDX-License-Identifier: Apache-2.0
// Windows and handles, piece by piece, for people who want to know where memory goes.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/ht_layout.hpp"
#include "shared/ll_layout.hpp"

namespace nccl_ep::plan {

struct MemoryPiece {
  const char* name;
  uint64_t bytes;  // with what aligns the next piece
};
using MemoryPieces = std::vector<MemoryPiece>;

// Each adds up to the layout's size.
MemoryPieces pieces_of(const LlLayout& window);
MemoryPieces pieces_of(const LlHandleLayout& handle);
MemoryPieces pieces_of(const HtLayout& window);
MemoryPieces pieces_of(const HtHandleLayout& handle);

uint64_t total_bytes(const MemoryPieces& pieces);

}  // namespace nccl_ep::plan

// SPDX-License-Identifier: Apache-2.0
#include "plan/memory_pieces.hpp"

#include <initializer_list>

namespace nccl_ep::plan {
namespace {

struct Place {
  const char* name;
  uint64_t begin;
};

// Pieces that follow one another: each ends where the next begins.
MemoryPieces cut(std::initializer_list<Place> places, uint64_t end) {
  MemoryPieces pieces;
  for (const Place& place : places) {
    if (!pieces.empty()) pieces.back().bytes = place.begin - pieces.back().bytes;
    pieces.push_back({place.name, place.begin});
  }
  pieces.back().bytes = end - pieces.back().bytes;
  return pieces;
}

}  // namespace

// The two banks are taken together.
MemoryPieces pieces_of(const LlLayout& window) {
  constexpr uint64_t kBanks = LlLayout::kNumBanks;
  return {{"operations finished", window.bank_at(0)},
          {"counts", kBanks * window.routes},
          {"routes and weights on their way", kBanks * (window.rows - window.routes)},
          {"rows on their way", kBanks * (window.bank_bytes - window.rows)}};
}

MemoryPieces pieces_of(const LlHandleLayout& handle) {
  return cut({{"operation and tokens of each rank", handle.pending_epoch_at()},
              {"rows received", handle.header_at(0)},
              {"experts of rows", handle.entry_at(0, 0)}},
             handle.size());
}

MemoryPieces pieces_of(const HtLayout& window) {
  return cut({{"operations started and finished", window.hello_at(0)},
              {"counts", window.counts},
              {"records of rows", window.records},
              {"weights on their way", window.weights},
              {"flags", window.flags},
              {"rows on their way", window.rows}},
             window.size());
}

MemoryPieces pieces_of(const HtHandleLayout& handle) {
  return cut({{"totals, ranks and experts", 0},
              {"destinations of tokens", handle.num_dests},
              {"rows to send", handle.outgoing},
              {"tokens to and from other teams", handle.guest_hits},
              {"places in the top-k", handle.places},
              {"origins of rows", handle.homes},
              {"experts of rows", handle.hits}},
             handle.size());
}

uint64_t total_bytes(const MemoryPieces& pieces) {
  uint64_t total = 0;
  for (const MemoryPiece& piece : pieces) total += piece.bytes;
  return total;
}

}  // namespace nccl_ep::plan

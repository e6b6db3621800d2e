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

// Both banks, in both directions.
void add_remote(MemoryPieces& pieces, const LlRemoteLayout& remote) {
  const uint64_t boxes = 2 * LlLayout::kNumBanks * uint64_t{remote.num_ranks};
  pieces.push_back({"other nodes: counts, routes, weights", boxes * remote.rows});
  pieces.push_back({"other nodes: rows", boxes * (remote.box_bytes - remote.rows)});
}

void add_remote(MemoryPieces& pieces, const HtRemoteLayout& remote) {
  const uint64_t boxes = 2 * uint64_t{remote.num_teams};
  pieces.push_back({"other nodes: what has arrived", remote.inbox_at(0) - remote.begin});
  pieces.push_back({"other nodes: counts", boxes * remote.list});
  pieces.push_back({"other nodes: lists of tokens", boxes * (remote.parcels - remote.list)});
  pieces.push_back({"other nodes: tokens and sums", boxes * (remote.box_bytes - remote.parcels)});
}

}  // namespace

// The two banks are taken together.
MemoryPieces window_pieces(const LlShape& shape) {
  constexpr uint64_t kBanks = LlLayout::kNumBanks;
  const LlLayout window = shape.layout();
  MemoryPieces pieces = {{"operations finished", window.bank_at(0)},
                         {"counts", kBanks * window.routes},
                         {"routes and weights on their way", kBanks * (window.rows - window.routes)},
                         {"rows on their way", kBanks * (window.bank_bytes - window.rows)},
                         {"meetings of masks", window.size() - window.meetings().begin}};
  if (shape.num_remote_ranks()) add_remote(pieces, shape.remote_layout());
  return pieces;
}

MemoryPieces window_pieces(const HtShape& shape) {
  const HtLayout window = shape.layout();
  MemoryPieces pieces = cut({{"operations started and finished", window.hello_at(0)},
                             {"counts", window.counts},
                             {"records of rows", window.records},
                             {"weights on their way", window.weights},
                             {"flags", window.flags},
                             {"rows on their way", window.rows}},
                            window.size());
  if (window.num_other_teams()) add_remote(pieces, shape.remote_layout());
  if (shape.masks) pieces.push_back({"masks", window.size_with_masks() - window.size()});
  return pieces;
}

MemoryPieces handle_pieces(const LlShape& shape, Layout layout, uint32_t num_topk) {
  const LlHandleLayout handle = shape.handle_layout(layout, num_topk);
  MemoryPieces pieces = cut({{"operation and tokens of each rank", handle.pending_epoch_at()},
                             {"rows received", handle.header_at(0)},
                             {"experts of rows", handle.entry_at(0, 0)}},
                            handle.size());
  if (shape.num_remote_ranks()) {
    pieces.push_back({"other nodes: tokens of rows", shape.handle_bytes(handle) - handle.size()});
  }
  return pieces;
}

MemoryPieces handle_pieces(const HtShape& shape, Layout, uint32_t num_topk) {
  const HtHandleLayout handle = HtHandleLayout::make(shape.layout(), num_topk);
  return cut({{"totals, ranks and experts", 0},
              {"destinations of tokens", handle.num_dests},
              {"rows to send", handle.outgoing},
              {"other nodes: tokens", handle.guest_hits},
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

// SPDX-License-Identifier: Apache-2.0
// Where everything lies in the Low-Latency window of a rank. Host and device use these functions alone, for sizes and
// for addresses; the size is the end of the last region.
//
//   hello   [source rank]                       one word: the last operation that the source has finished
//   life    [source rank]                       one word that the source changes while it waits for others
//   bank 0, bank 1: operations alternate between the banks by the parity of their epoch
//     counts  [source rank][unit]               dispatch: unit 0 = {tokens, rows for this rank}, then 3 experts a unit
//     routes  [source rank][token][hit]         dispatch: one unit a hit; combine: the hits' weights, 3 a unit
//     rows    [source rank][token][line]        a slot for every token that any rank may send or get back;
//             [token][place in the top-k][line]  combine of a group with exact_combine: one for every route
//
//   meeting [phase][source rank]                what ranks tell each other when they clean their masks: a unit
//
// "Hit" is one local expert of the receiving rank that a token is routed to. Units and lines are tagged with the epoch,
// so nothing has to be cleared: what an earlier operation left does not match.
#pragma once

#include "shared/mask_meetings.hpp"

namespace nccl_ep {

// A line is 128 bytes that travel as one: eight units side by side, of which the last is tagged. A row is moved in
// strips of four lines, one access of a warp; a strip holds 31 packs of 16 bytes (rows.cuh says where).
constexpr uint32_t kUnitsPerLine = 8;
constexpr uint32_t kWordsPerLine = 31;
constexpr uint32_t kPacksPerStrip = 31;

struct LlLayout {
  static constexpr uint32_t kNumBanks = 2;
  static constexpr uint64_t kAlign = 128;

  uint32_t num_ranks;
  uint32_t max_tokens;
  uint32_t max_hits;
  uint32_t count_units;
  uint64_t line_row_bytes;            // of a row of the greatest size, as lines
  uint64_t routes, rows, bank_bytes;  // offsets inside a bank, and its size

  // `rows_back`: of one token in combine, where there may be more than one from each rank.
  EP_HOST_DEVICE static LlLayout make(uint32_t num_ranks, uint32_t max_tokens, uint32_t num_local_experts,
                                      uint32_t max_hits, uint64_t row_bytes, uint32_t rows_back = 0) {
    LlLayout x{};
    x.num_ranks = num_ranks;
    x.max_tokens = max_tokens;
    x.max_hits = max_hits;
    x.count_units = 1 + static_cast<uint32_t>(div_up(num_local_experts, 3));
    x.line_row_bytes = sizeof(Unit) * kUnitsPerLine * div_up(row_bytes / 4, kWordsPerLine);
    const uint64_t slots = uint64_t{num_ranks} * max_tokens;
    x.routes = align_up(sizeof(Unit) * num_ranks * x.count_units, kAlign);
    x.rows = align_up(x.routes + sizeof(Unit) * slots * max_hits, kAlign);
    const uint64_t rows_of_token = rows_back > num_ranks ? rows_back : num_ranks;
    x.bank_bytes = x.rows + rows_of_token * max_tokens * x.line_row_bytes;
    return x;
  }

  EP_HOST_DEVICE uint64_t hello_at(uint32_t source) const { return sizeof(uint32_t) * source; }
  EP_HOST_DEVICE uint64_t life_at(uint32_t source) const { return hello_at(num_ranks) + sizeof(uint32_t) * source; }
  EP_HOST_DEVICE uint64_t bank_at(uint32_t bank) const {
    return align_up(life_at(num_ranks), kAlign) + bank * bank_bytes;
  }
  EP_HOST_DEVICE uint64_t counts_at(uint32_t bank, uint32_t source, uint32_t unit) const {
    return bank_at(bank) + sizeof(Unit) * (uint64_t{source} * count_units + unit);
  }
  EP_HOST_DEVICE uint64_t route_at(uint32_t bank, uint32_t source, uint32_t token, uint32_t hit) const {
    return bank_at(bank) + routes + sizeof(Unit) * (slot(source, token) * max_hits + hit);
  }
  EP_HOST_DEVICE uint64_t row_at(uint32_t bank, uint32_t source, uint32_t token) const {
    return bank_at(bank) + rows + slot(source, token) * line_row_bytes;
  }
  EP_HOST_DEVICE uint64_t row_of_route_at(uint32_t bank, uint32_t token, uint32_t k) const {
    return bank_at(bank) + rows + (uint64_t{token} * max_hits + k) * line_row_bytes;
  }
  EP_HOST_DEVICE uint64_t slot(uint32_t source, uint32_t token) const { return uint64_t{source} * max_tokens + token; }
  EP_HOST_DEVICE MaskMeetings meetings() const { return {bank_at(kNumBanks), num_ranks}; }
  EP_HOST_DEVICE uint64_t size() const { return meetings().end(); }
};

// What a handle remembers of a dispatch, in the handle's own memory: how each received row was routed.
struct alignas(8) LlRouteHeader {
  uint32_t num_hits;
  uint32_t row;  // rank-major: index of the row among the source's rows
};
struct alignas(8) LlRouteEntry {
  uint16_t expert;  // local
  uint16_t k;       // place in the token's top-k table
  uint32_t row;     // index in the expert's zone
};

struct LlHandleLayout {
  uint32_t num_ranks;
  uint32_t max_tokens;
  uint32_t max_hits;

  EP_HOST_DEVICE uint64_t pending_epoch_at() const { return 0; }
  EP_HOST_DEVICE uint64_t num_tokens_at(uint32_t source) const { return LlLayout::kAlign + sizeof(uint32_t) * source; }
  EP_HOST_DEVICE uint64_t header_at(uint64_t slot) const {
    return align_up(num_tokens_at(num_ranks), LlLayout::kAlign) + sizeof(LlRouteHeader) * slot;
  }
  EP_HOST_DEVICE uint64_t entry_at(uint64_t slot, uint32_t hit) const {
    return align_up(header_at(num_slots()), LlLayout::kAlign) + sizeof(LlRouteEntry) * (slot * max_hits + hit);
  }
  EP_HOST_DEVICE uint64_t num_slots() const { return uint64_t{num_ranks} * max_tokens; }
  EP_HOST_DEVICE uint64_t size() const { return entry_at(num_slots(), 0); }
};

}  // namespace nccl_ep

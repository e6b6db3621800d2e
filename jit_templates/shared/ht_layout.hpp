// SPDX-License-Identifier: Apache-2.0
// Where everything lies in the High-Throughput window of a rank, and in a handle's memory. Host and device use these
// functions alone, for sizes and for addresses.
//
// A "row" is a token on a rank that has at least one of its experts: it travels once, however many experts want it there.
// Rows are numbered on the receiving rank by (source rank, token). A "hit" is one of its experts there; in the
// expert-major layout each hit has a slot, the final row of the output.
//
// Window
//   hello    [source]          one word: the last operation that the source has started
//   done     [source]          one word: the last operation whose data the source has pushed completely
//   counts   [source][unit]    update: the source's tokens for each rank, then for each expert, 3 a unit
//   records  [row][unit]       update: what the receiver must know of each row
//   weights  [row or place][unit]  dispatch: the weights of a row's hits, 3 a unit; backward combine: gradients, by home slot
//   flags    [row or home slot]    one word: the operation whose row has arrived
//   rows     [row or home slot]    rows on their way to outputs that are no windows, and combine's rows on their way home
//
// A home slot belongs to a token and one of the ranks it went to, in the order of the ranks.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

constexpr uint32_t kHtMaxTopk = 64;
constexpr uint32_t kHtMaxRanks = 1024;

struct HtLayout {
  static constexpr uint64_t kAlign = 128;

  uint32_t num_ranks;
  uint32_t num_experts;
  uint32_t max_tokens;  // of a rank
  uint32_t max_topk;
  uint32_t max_rows;  // that a rank may receive
  uint64_t row_bytes;
  uint64_t done, counts, records, weights, flags, rows, end;

  EP_HOST_DEVICE static HtLayout make(uint32_t num_ranks, uint32_t num_experts, uint32_t max_tokens, uint32_t max_topk,
                                      uint32_t max_rows, uint64_t row_bytes) {
    HtLayout x{};
    x.num_ranks = num_ranks;
    x.num_experts = num_experts;
    x.max_tokens = max_tokens;
    x.max_topk = max_topk;
    x.max_rows = max_rows;
    x.row_bytes = align_up(row_bytes, kAlign);
    x.done = align_up(sizeof(uint32_t) * num_ranks, kAlign);
    x.counts = align_up(x.done + sizeof(uint32_t) * num_ranks, kAlign);
    x.records = align_up(x.counts + sizeof(Unit) * num_ranks * x.count_units(), kAlign);
    x.weights = align_up(x.records + sizeof(Unit) * max_rows * x.record_units(), kAlign);
    x.flags = align_up(x.weights + sizeof(Unit) * x.num_slots() * x.weight_units(), kAlign);
    x.rows = align_up(x.flags + sizeof(uint32_t) * x.num_slots(), kAlign);
    x.end = x.rows + x.num_slots() * x.row_bytes;
    return x;
  }

  EP_HOST_DEVICE uint32_t num_local_experts() const { return num_experts / num_ranks; }
  // Of one row, at most.
  EP_HOST_DEVICE uint32_t max_hits() const { return max_topk < num_local_experts() ? max_topk : num_local_experts(); }
  // Ranks that one token goes to, at most.
  EP_HOST_DEVICE uint32_t max_dests() const { return max_topk < num_ranks ? max_topk : num_ranks; }
  EP_HOST_DEVICE uint64_t home_slot(uint32_t token, uint32_t dest) const {
    return uint64_t{token} * max_dests() + dest;
  }
  // Of rows on their way, in either direction.
  EP_HOST_DEVICE uint64_t num_slots() const {
    const uint64_t home = uint64_t{max_tokens} * max_dests();
    return home > max_rows ? home : max_rows;
  }

  // Counters of a source: its tokens for rank r are number r, those for expert e are number num_ranks + e.
  EP_HOST_DEVICE uint32_t num_counters() const { return num_ranks + num_experts; }
  EP_HOST_DEVICE uint32_t counter_stride() const { return static_cast<uint32_t>(align_up(num_counters(), 4)); }
  EP_HOST_DEVICE uint32_t count_units() const { return static_cast<uint32_t>(div_up(num_counters(), 3)); }
  EP_HOST_DEVICE uint32_t record_units() const { return 1 + static_cast<uint32_t>(div_up(max_hits() - 1, 3)); }
  EP_HOST_DEVICE uint32_t weight_units() const { return static_cast<uint32_t>(div_up(max_hits(), 3)); }

  EP_HOST_DEVICE uint64_t hello_at(uint32_t source) const { return sizeof(uint32_t) * source; }
  EP_HOST_DEVICE uint64_t done_at(uint32_t source) const { return done + sizeof(uint32_t) * source; }
  EP_HOST_DEVICE uint64_t counts_at(uint32_t source, uint32_t unit) const {
    return counts + sizeof(Unit) * (uint64_t{source} * count_units() + unit);
  }
  EP_HOST_DEVICE uint64_t record_at(uint64_t row, uint32_t unit) const {
    return records + sizeof(Unit) * (row * record_units() + unit);
  }
  EP_HOST_DEVICE uint64_t weight_at(uint64_t slot, uint32_t unit) const {
    return weights + sizeof(Unit) * (slot * weight_units() + unit);
  }
  EP_HOST_DEVICE uint64_t flag_at(uint64_t slot) const { return flags + sizeof(uint32_t) * slot; }
  EP_HOST_DEVICE uint64_t row_at(uint64_t slot) const { return rows + slot * row_bytes; }
  EP_HOST_DEVICE uint64_t size() const { return end; }
};

// One of the ranks that a token goes to.
struct alignas(8) HtDest {
  uint16_t rank;
  uint8_t first_hit, num_hits;  // among the token's hits, which are in the order of the experts
  uint32_t row;                 // there
};

// What goes to a rank: consecutive rows there. Expert-major, rows whose hits are all dropped have numbers, too.
struct HtOutgoing {
  uint32_t first;  // of its sends
  uint32_t row;    // there, of the first
  uint32_t num_rows;
};

// One of the rows that go to a rank.
struct alignas(8) HtSend {
  uint32_t token;
  uint32_t slot;  // of the output there, expert-major the first hit's; kNoSlot: dropped, it does not travel
};

// Where a received row came from.
struct alignas(8) HtHome {
  uint16_t source;
  uint8_t dest;      // which of the token's ranks this one is
  uint8_t num_hits;  // 0: dropped
  uint32_t token;
};

// What an update leaves for dispatch and combine.
struct HtTotals {
  uint32_t num_rows;   // that this rank receives, expert-major dropped ones included
  uint32_t num_slots;  // rows of the output, padding included; rank-wise rows in the flat layout
};

// An expert's slots in the expert-major layout.
struct HtZone {
  uint32_t begin, num_rows, num_slots;  // the slots behind its rows are padding
};

// A handle's memory.
//   totals
//   sources    [rank + 1]          the first row of each rank, and the end
//   zones      [local expert]
//   num_dests  [token]             of this rank's tokens
//   dests      [token][dest]       in the order of the ranks
//   outgoing   [rank]
//   sends      [row]               of this rank's tokens, by (rank, token)
//   places     [token][k]          which of the token's hits the k-th id is; kNoHit: none
//   homes      [row]
//   hits       [row][hit]          flat: the local expert; expert-major: the slot
struct HtHandleLayout {
  static constexpr uint64_t kAlign = 128;
  static constexpr uint8_t kNoHit = 255;
  static constexpr uint32_t kNoSlot = ~0u;

  uint32_t max_tokens, num_topk, max_dests, max_hits, max_rows;
  uint64_t sources, zones, num_dests, dests, outgoing, sends, places, homes, hits, end;

  EP_HOST_DEVICE static HtHandleLayout make(const HtLayout& window, uint32_t num_topk) {
    HtHandleLayout x{};
    x.max_tokens = window.max_tokens;
    x.num_topk = num_topk;
    x.max_dests = num_topk < window.num_ranks ? num_topk : window.num_ranks;
    x.max_hits = num_topk < window.num_local_experts() ? num_topk : window.num_local_experts();
    x.max_rows = window.max_rows;
    x.sources = align_up(sizeof(HtTotals), kAlign);
    x.zones = align_up(x.sources + sizeof(uint32_t) * (window.num_ranks + 1), kAlign);
    x.num_dests = align_up(x.zones + sizeof(HtZone) * window.num_local_experts(), kAlign);
    x.dests = align_up(x.num_dests + x.max_tokens, kAlign);
    x.outgoing = align_up(x.dests + sizeof(HtDest) * x.max_tokens * x.max_dests, kAlign);
    x.sends = align_up(x.outgoing + sizeof(HtOutgoing) * window.num_ranks, kAlign);
    x.places = align_up(x.sends + sizeof(HtSend) * x.max_tokens * x.max_dests, kAlign);
    x.homes = align_up(x.places + uint64_t{x.max_tokens} * num_topk, kAlign);
    x.hits = align_up(x.homes + sizeof(HtHome) * x.max_rows, kAlign);
    x.end = align_up(x.hits + sizeof(uint32_t) * x.max_rows * x.max_hits, kAlign);
    return x;
  }

  EP_HOST_DEVICE uint64_t source_at(uint32_t rank) const { return sources + sizeof(uint32_t) * rank; }
  EP_HOST_DEVICE uint64_t zone_at(uint32_t expert) const { return zones + sizeof(HtZone) * expert; }
  EP_HOST_DEVICE uint64_t num_dests_at(uint32_t token) const { return num_dests + token; }
  EP_HOST_DEVICE uint64_t dest_at(uint32_t token, uint32_t dest) const {
    return dests + sizeof(HtDest) * (uint64_t{token} * max_dests + dest);
  }
  EP_HOST_DEVICE uint64_t outgoing_at(uint32_t rank) const { return outgoing + sizeof(HtOutgoing) * rank; }
  EP_HOST_DEVICE uint64_t send_at(uint64_t i) const { return sends + sizeof(HtSend) * i; }
  EP_HOST_DEVICE uint64_t place_at(uint32_t token, uint32_t k) const { return places + uint64_t{token} * num_topk + k; }
  EP_HOST_DEVICE uint64_t home_at(uint64_t row) const { return homes + sizeof(HtHome) * row; }
  EP_HOST_DEVICE uint64_t hit_at(uint64_t row, uint32_t hit) const {
    return hits + sizeof(uint32_t) * (row * max_hits + hit);
  }
  EP_HOST_DEVICE uint64_t size() const { return end; }
};

}  // namespace nccl_ep

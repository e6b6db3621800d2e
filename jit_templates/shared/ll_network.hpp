// SPDX-License-Identifier: Apache-2.0
// What Low-Latency groups of several LSA teams have besides: where things lie that cross the network, and which signals say
// that they have arrived. Host and device use these functions alone.
//
// "Remote" are the ranks outside the own LSA team, numbered from 0 on in the order of the world. For each of them a bank
// has two boxes of the same form, behind the rest of the window:
//
//   inbox   [remote rank]  what it has put here
//   outbox  [remote rank]  what is put there, from the time it is written until it has arrived
//
// and in a box
//
//   head                   dispatch: counts, records, routes, without gaps; combine: weights [row][top-k]
//   rows    [token]        plain bytes. All rows of a dispatch leave from box 0, since each may go to many ranks. In combine
//                          of a group with exact_combine a token has a row for each hit, one behind the other
//
// Nothing in a box is tagged: what the network brings may not be polled.
#pragma once

#include "shared/gin_comm.hpp"
#include "shared/ll_layout.hpp"

struct ncclWindow_vidmem;

namespace nccl_ep {

// In dispatch: a row for the receiving rank. Rows are in the order of tokens.
struct alignas(8) LlRowRecord {
  uint32_t token;
  uint32_t first_route;  // the token's other routes follow
};

struct LlRemoteLayout {
  uint64_t begin;  // of the boxes in the window
  uint32_t num_ranks;
  uint32_t max_tokens;
  uint32_t count_units;
  uint64_t rows, row_stride, box_bytes;  // in a box

  // Behind `window`, which is that of the LSA team. `rows_back`: of one token in combine, from one rank.
  EP_HOST_DEVICE static LlRemoteLayout make(const LlLayout& window, uint32_t num_remote_ranks, uint64_t row_bytes,
                                            uint32_t rows_back = 1) {
    LlRemoteLayout x{};
    x.begin = window.size();
    x.num_ranks = num_remote_ranks;
    x.max_tokens = window.max_tokens;
    x.count_units = window.count_units;
    // Routes take more room than weights do.
    x.rows =
        align_up(x.routes_at(window.max_tokens) + sizeof(Unit) * window.max_tokens * window.max_hits, LlLayout::kAlign);
    x.row_stride = align_up(row_bytes * rows_back, LlLayout::kAlign);
    x.box_bytes = x.rows + x.row_stride * window.max_tokens;
    return x;
  }

  EP_HOST_DEVICE uint64_t inbox_at(uint32_t bank, uint32_t remote) const { return box_at(2 * bank, remote); }
  EP_HOST_DEVICE uint64_t outbox_at(uint32_t bank, uint32_t remote) const { return box_at(2 * bank + 1, remote); }
  EP_HOST_DEVICE uint64_t size() const { return box_at(2 * LlLayout::kNumBanks, 0); }

  // In a box. Its head begins with the counts.
  EP_HOST_DEVICE uint64_t row_at(uint32_t token) const { return rows + row_stride * token; }
  EP_HOST_DEVICE uint64_t record_at(uint32_t row) const {
    return sizeof(Unit) * count_units + sizeof(LlRowRecord) * uint64_t{row};
  }
  EP_HOST_DEVICE uint64_t routes_at(uint32_t num_rows) const { return align_up(record_at(num_rows), sizeof(Unit)); }

 private:
  EP_HOST_DEVICE uint64_t box_at(uint32_t boxes, uint32_t remote) const {
    return begin + box_bytes * (uint64_t{boxes} * num_ranks + remote);
  }
};

// Signals of a rank, by their number. They count operations and are never reset. Each operation of every rank sends the head
// once to every remote rank, in context 0, and the rows in every context. Hellos, in context 0, add up to the number of an
// operation before which all are finished: as one begins, it adds what is new, none or one or two.
//
// With masks, heads and rows add up to the number of the operation, too, whatever has been left out before
// (ll/remote_waits.cuh), and there are some more: signs of life and, in all contexts, what ranks say at the two meetings where
// masks are cleaned, the second one in context 0.
struct LlSignals {
  enum Kind : uint32_t { kHello, kHead, kHeadOfOtherBank, kRows, kLife, kMeeting, kAgreement, kNumKinds };
  static_assert(LlLayout::kNumBanks == 2, "as many kinds of heads");

  uint32_t num_ranks;  // of the world

  EP_HOST_DEVICE uint32_t of(Kind kind, uint32_t source) const { return kind * num_ranks + source; }
  EP_HOST_DEVICE uint32_t hello(uint32_t source) const { return source; }
  // Heads arrive in any order, but those of one bank one after the other.
  EP_HOST_DEVICE uint32_t head(uint32_t bank, uint32_t source) const { return (1 + bank) * num_ranks + source; }
  EP_HOST_DEVICE uint32_t rows(uint32_t source) const { return (1 + LlLayout::kNumBanks) * num_ranks + source; }
  EP_HOST_DEVICE uint32_t life(uint32_t source) const { return of(kLife, source); }
  EP_HOST_DEVICE uint32_t count(bool has_masks) const { return (has_masks ? kNumKinds : kLife) * num_ranks; }
  // Of what a rank has told others: [context][kind][peer].
  EP_HOST_DEVICE uint64_t told_bytes(uint32_t num_contexts) const {
    return sizeof(uint32_t) * num_contexts * kNumKinds * num_ranks;
  }
};

// Behind what a handle remembers of the team: the tokens of the rows that remote ranks have sent, in their order.
struct LlRemoteHandleLayout {
  uint64_t begin;
  uint32_t num_ranks;
  uint32_t max_tokens;

  EP_HOST_DEVICE static LlRemoteHandleLayout make(const LlHandleLayout& handle, uint32_t num_remote_ranks) {
    return {align_up(handle.size(), LlLayout::kAlign), num_remote_ranks, handle.max_tokens};
  }
  EP_HOST_DEVICE uint64_t num_rows_at(uint32_t remote) const { return begin + sizeof(uint32_t) * uint64_t{remote}; }
  EP_HOST_DEVICE uint64_t token_at(uint32_t remote, uint32_t row) const {
    return num_rows_at(num_ranks) + sizeof(uint32_t) * (uint64_t{remote} * max_tokens + row);
  }
  EP_HOST_DEVICE uint64_t size() const { return token_at(num_ranks, 0); }
};

// An argument of the kernels that use the network.
struct LlNetwork {
  using Signals = LlSignals;
  static constexpr bool kByWorldRank = false;  // how the windows of the team are addressed
  static constexpr uint32_t kRenewals = 1;     // of patience with somebody who shows that it lives

  GinComm comm;
  ncclWindow_vidmem* window;
  LlRemoteLayout layout;
  uint32_t first_rank, team_size;  // of the own LSA team
  MaskProgress* mask_progress;     // null in groups without masks
  uint32_t* told;                  // what this rank has told others, as LlSignals has it
};

}  // namespace nccl_ep

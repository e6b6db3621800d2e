// SPDX-License-Identifier: Apache-2.0
// What High-Throughput groups of several LSA teams have besides: where things lie that cross the network, and the words that
// say that they have arrived. Host and device use these functions alone.
//
// A rank exchanges with its rail peers alone: the ranks with its place in the other teams, which are numbered from 0 on
// without the own one. For each of them there are two boxes of the same form, behind the rest of the window:
//
//   inbox   [other team]  what has come from there
//   outbox  [other team]  what goes there, from the time it is written until it has arrived
//
// and in a box
//
//   counts   [unit]    update: the rank's counts
//   tallies            update, with masks and where rows are dropped: how the rank's team has added up all counts: for each
//                      of its ranks an HtTally of rows, then one of each of its experts
//   list               update: what the rail peer must know to receive guests: HtListHead, an HtOutgoing for each rank of
//                      its team, a byte for each parcel (how many ranks it goes to), a record for each row
//   parcels  [parcel]  a row and then weights, without gaps: dispatch: a token and the weights of its hits in that team;
//                      combine: the sum of its results there, backward with the gradients of these weights; in a group
//                      with exact_combine the row of each hit in place of the sum
//
// Parcels travel in chunks, in either direction the same ones. Each thing that travels has a word at the receiver. The signal
// that rides on its put brings the word to the number of the operation.
#pragma once

#include "shared/gin_comm.hpp"
#include "shared/ht_layout.hpp"

struct ncclWindow_vidmem;

namespace nccl_ep {

struct alignas(16) HtListHead {
  uint32_t num_parcels, num_records;
};

// Of the tokens that go to a rank, or to an expert: those of the ranks before the one that is told, and all.
struct HtTally {
  uint32_t before, all;
};

// Where the parts of a list are, which follows from its head.
struct HtList {
  uint32_t team_size, record_units, num_parcels, num_records;

  EP_HOST_DEVICE uint64_t outgoing_at(uint32_t i) const { return sizeof(HtListHead) + sizeof(HtOutgoing) * i; }
  EP_HOST_DEVICE uint64_t num_dests_at(uint32_t parcel) const { return outgoing_at(team_size) + parcel; }
  EP_HOST_DEVICE uint64_t record_at(uint32_t record, uint32_t unit) const {
    return align_up(num_dests_at(num_parcels), sizeof(Unit)) + sizeof(Unit) * (uint64_t{record} * record_units + unit);
  }
  EP_HOST_DEVICE uint64_t size() const { return record_at(num_records, 0); }
};

// Parcels as an operation has them.
struct HtParcels {
  uint32_t row_bytes;    // or of as many rows as there may be
  uint32_t num_weights;  // of each

  EP_HOST_DEVICE uint32_t stride() const {
    return static_cast<uint32_t>(align_up(row_bytes + sizeof(float) * num_weights, 16));
  }
};

struct HtRemoteLayout {
  static constexpr uint64_t kAlign = 128;
  static constexpr uint32_t kCounts = 0, kTallies = 1, kList = 2, kFirstChunk = 3;  // words

  uint64_t begin;  // of all this in the window
  uint32_t num_teams;
  uint32_t chunk_parcels;
  uint32_t num_words;                          // for each team
  uint32_t tallies_of_rank;                    // its own and its experts'
  uint64_t tallies, list, parcels, box_bytes;  // in a box

  // Behind `window`, which is that of the LSA team. `drops`: what there is no room for.
  EP_HOST_DEVICE static HtRemoteLayout make(const HtLayout& window, uint32_t chunk_parcels, bool has_masks,
                                            bool drops) {
    HtRemoteLayout x{};
    x.begin = has_masks ? window.size_with_masks() : window.size();
    x.num_teams = window.num_other_teams();
    x.chunk_parcels = chunk_parcels;
    x.num_words = kFirstChunk + static_cast<uint32_t>(div_up(window.max_tokens, chunk_parcels));
    x.tallies_of_rank = 1 + window.num_local_experts();
    x.tallies = align_up(sizeof(Unit) * window.count_units(), kAlign);
    const uint32_t num_tallies = has_masks && drops ? window.team_size * x.tallies_of_rank : 0;
    x.list = align_up(x.tallies + sizeof(HtTally) * num_tallies, kAlign);
    const HtList longest{window.team_size, window.record_units(), window.max_tokens,
                         window.max_tokens * window.max_team_dests()};
    x.parcels = align_up(x.list + longest.size(), kAlign);
    const uint32_t num_rows = window.team_rows_of(window.max_topk);
    const HtParcels widest{num_rows * static_cast<uint32_t>(window.row_bytes), window.max_topk};
    x.box_bytes = align_up(x.parcels + uint64_t{window.max_tokens} * widest.stride(), kAlign);
    return x;
  }

  EP_HOST_DEVICE uint32_t num_chunks() const { return num_words - kFirstChunk; }
  // In a box. The first of a rank is of its rows, and those of its experts follow.
  EP_HOST_DEVICE uint64_t tally_at(uint32_t place, uint32_t i) const {
    return tallies + sizeof(HtTally) * (uint64_t{place} * tallies_of_rank + i);
  }
  EP_HOST_DEVICE uint64_t inbox_at(uint32_t other_team) const {
    return boxes() + box_bytes * (2 * uint64_t{other_team});
  }
  EP_HOST_DEVICE uint64_t outbox_at(uint32_t other_team) const { return inbox_at(other_team) + box_bytes; }
  // Of what has come from a team; of what was sent there last.
  EP_HOST_DEVICE uint64_t word_at(uint32_t other_team, uint32_t word) const {
    return begin + sizeof(uint64_t) * (uint64_t{other_team} * num_words + word);
  }
  EP_HOST_DEVICE uint64_t sent_at(uint32_t other_team, uint32_t word) const {
    return word_at(num_teams, 0) + sizeof(uint32_t) * (uint64_t{other_team} * num_words + word);
  }
  EP_HOST_DEVICE uint64_t size() const { return inbox_at(num_teams); }

 private:
  EP_HOST_DEVICE uint64_t boxes() const { return align_up(sent_at(num_teams, 0), kAlign); }
};

// Signals of a rank, by their number: hellos say how many operations a rail peer has started. They are never reset.
//
// With masks they add up to the number of the operation whatever has been left out before (common/remote_waits.cuh), and
// there are some more: signs of life and, in all contexts, what ranks say at the two meetings where masks are cleaned, the
// second one in context 0.
struct HtSignals {
  enum Kind : uint32_t { kHello, kLife, kMeeting, kAgreement, kNumKinds };

  uint32_t num_ranks;  // of the world

  EP_HOST_DEVICE uint32_t of(Kind kind, uint32_t source) const { return kind * num_ranks + source; }
  EP_HOST_DEVICE uint32_t hello(uint32_t source) const { return of(kHello, source); }
  EP_HOST_DEVICE uint32_t life(uint32_t source) const { return of(kLife, source); }
  EP_HOST_DEVICE uint32_t count(bool has_masks) const { return (has_masks ? kNumKinds : kLife) * num_ranks; }
  // Of what a rank has told others: [context][kind][peer].
  EP_HOST_DEVICE uint64_t told_bytes(uint32_t num_contexts) const {
    return sizeof(uint32_t) * num_contexts * kNumKinds * num_ranks;
  }
};

// An argument of the kernels that use the network.
struct HtNetwork {
  using Signals = HtSignals;
  static constexpr bool kByWorldRank = true;  // how the windows of the team are addressed
  // Of patience with somebody who shows that it lives. A rank hears of other teams by way of one rank alone, and may be ahead
  // of it: while that one waits for a dead rank in one operation and in the next, and for others that do.
  static constexpr uint32_t kRenewals = 3;

  GinComm comm;
  ncclWindow_vidmem* window;
  HtRemoteLayout layout;
  uint32_t first_rank, team_size;  // of the own LSA team
  MaskProgress* mask_progress;     // null in groups without masks
  uint32_t* told;                  // what this rank has told others, as HtSignals has it
};

}  // namespace nccl_ep

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
//   rows     [row or home slot]    rows on their way to outputs that are no windows, and combine's rows on their way home;
//                                  dispatch: the rank's own tokens when it has quantized them, where no others' rows go
//
// and in a group with masks
//   participation  [team]      one word: in which operation this rank, or its rail peer in another team, was last said to
//                              take part or not (participants.cuh)
//   kept     [team][unit]      the counts of those ranks, for whoever misses them
//   life     [source]          one word that the source changes while it waits for others
//   meeting  [phase][source]   what ranks tell each other when they clean their masks: a unit
//
// where sources are the team's ranks.
//
// A home slot belongs to a token and one of the ranks of the team it went to, in the order of the ranks. In a group with
// exact_combine it belongs to a token and one of its hits, in the order of the experts; of a guest's those in this team.
//
// Where ranks form several LSA teams, all of this is about one of them. A rank looks after the tokens of its rail peers
// there, the ranks with its place in the other teams, as after its own: these are its "guests". To the ranks of its team it
// is the one that sends a guest's rows, and it has home slots for guests. "Hosted" tokens are its own, from 0 on, and
// behind them the guests from each other team, max_tokens of each. ht_network.hpp has what crosses between teams.
#pragma once

#include "shared/limits.hpp"
#include "shared/mask_meetings.hpp"

namespace nccl_ep {

struct HtLayout {
  static constexpr uint64_t kAlign = 128;

  uint32_t num_ranks;
  uint32_t team_size;  // ranks of an LSA team
  uint32_t num_teams;
  uint32_t num_experts;
  uint32_t max_tokens;  // of a rank
  uint32_t max_topk;
  uint32_t max_rows;           // that a rank may receive
  uint32_t slots_are_of_hits;  // home slots, one for each
  // What follows from these and takes a division.
  uint32_t local_experts, units_of_counts, units_of_record, units_of_weights;
  uint64_t row_bytes;
  uint64_t done, counts, records, weights, flags, rows, end;

  EP_HOST_DEVICE static HtLayout make(uint32_t num_ranks, uint32_t team_size, uint32_t num_experts, uint32_t max_tokens,
                                      uint32_t max_topk, uint32_t max_rows, uint64_t row_bytes,
                                      bool slots_are_of_hits = false) {
    HtLayout x{};
    x.num_ranks = num_ranks;
    x.team_size = team_size;
    x.num_teams = num_ranks / team_size;
    x.num_experts = num_experts;
    x.max_tokens = max_tokens;
    x.max_topk = max_topk;
    x.max_rows = max_rows;
    x.slots_are_of_hits = slots_are_of_hits;
    x.local_experts = num_experts / num_ranks;
    x.units_of_counts = static_cast<uint32_t>(div_up(x.num_counters(), 3));
    x.units_of_record = 1 + static_cast<uint32_t>(div_up(x.max_hits() - 1, 3));
    x.units_of_weights = static_cast<uint32_t>(div_up(x.max_hits(), 3));
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

  EP_HOST_DEVICE uint32_t num_local_experts() const { return local_experts; }
  // Of one row, at most.
  EP_HOST_DEVICE uint32_t max_hits() const { return max_topk < num_local_experts() ? max_topk : num_local_experts(); }
  EP_HOST_DEVICE uint32_t num_other_teams() const { return num_teams - 1; }
  EP_HOST_DEVICE uint32_t num_hosted() const { return num_teams * max_tokens; }
  // Ranks of one team that a token goes to, at most; and with the other teams that it goes to.
  EP_HOST_DEVICE uint32_t max_team_dests() const { return max_topk < team_size ? max_topk : team_size; }
  EP_HOST_DEVICE uint32_t max_dests() const { return max_dests_of(max_topk); }
  EP_HOST_DEVICE uint32_t max_dests_of(uint32_t num_topk) const {
    const uint32_t most = team_size + num_other_teams();
    return num_topk < most ? num_topk : most;
  }
  // Rows that come home from a team for each token, at most.
  EP_HOST_DEVICE uint32_t team_rows_of(uint32_t num_topk) const {
    if (!slots_are_of_hits) return 1;
    const uint32_t team_experts = team_size * num_local_experts();
    return num_topk < team_experts ? num_topk : team_experts;
  }
  EP_HOST_DEVICE uint32_t home_slots_of_token() const { return slots_are_of_hits ? max_topk : max_team_dests(); }
  EP_HOST_DEVICE uint64_t home_slot(uint32_t hosted_token, uint32_t place) const {
    return uint64_t{hosted_token} * home_slots_of_token() + place;
  }
  // Of rows on their way, in either direction. Dispatch needs some for the rows of others and, to quantize, for this rank's
  // tokens.
  EP_HOST_DEVICE uint64_t num_slots() const {
    const uint64_t home = uint64_t{num_hosted()} * home_slots_of_token();
    const uint64_t most_of_others = uint64_t{num_ranks - 1} * max_tokens;
    const uint64_t dispatch = (max_rows < most_of_others ? max_rows : most_of_others) + max_tokens;
    return home > dispatch ? home : dispatch;
  }

  // Counters of a source: its tokens for rank r are number r, those for expert e are number num_ranks + e. Nobody else
  // needs to know how many tokens go to each team, if there are several: these counters are behind the others.
  EP_HOST_DEVICE uint32_t num_counters() const { return num_ranks + num_experts; }
  EP_HOST_DEVICE uint32_t num_all_counters() const { return num_counters() + (num_teams > 1 ? num_teams : 0); }
  EP_HOST_DEVICE uint32_t team_counter(uint32_t team) const { return num_counters() + team; }
  EP_HOST_DEVICE uint32_t count_units() const { return units_of_counts; }
  // Of a block, which has so few tokens that two counts fit in a word.
  static constexpr uint32_t kBlockCountBits = 16, kMaxBlockTokens = (1u << kBlockCountBits) - 1;
  static constexpr uint32_t kBlockCountsPerUnit = 3 * 32 / kBlockCountBits;
  EP_HOST_DEVICE uint32_t block_count_units() const {
    return static_cast<uint32_t>(div_up(num_all_counters(), kBlockCountsPerUnit));
  }
  EP_HOST_DEVICE uint32_t record_units() const { return units_of_record; }
  EP_HOST_DEVICE uint32_t weight_units() const { return units_of_weights; }

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
  // Behind all that, with masks.
  EP_HOST_DEVICE uint64_t participation_at(uint32_t team) const { return end + sizeof(uint32_t) * team; }
  EP_HOST_DEVICE uint64_t kept_at(uint32_t team, uint32_t unit) const {
    return align_up(participation_at(num_teams), kAlign) + sizeof(Unit) * (uint64_t{team} * count_units() + unit);
  }
  EP_HOST_DEVICE uint64_t life_at(uint32_t source) const {
    return align_up(kept_at(num_teams, 0), kAlign) + sizeof(uint32_t) * source;
  }
  EP_HOST_DEVICE MaskMeetings meetings() const { return {align_up(life_at(team_size), kAlign), team_size}; }
  EP_HOST_DEVICE uint64_t size_with_masks() const { return meetings().end(); }
};

// Some of a token's hits, which are in the order of the experts; of a guest's those in this team.
struct HtHits {
  uint8_t first, count;
};

// One of the ranks that a token goes to, or all of another team: then `rank` is the rail peer there.
struct alignas(8) HtDest {
  uint16_t rank;
  HtHits hits;
  uint32_t row;  // there; another team: the parcel
};

// One of the tokens that go to another team: a parcel, which has the number of its place in their list.
struct alignas(8) HtDeparture {
  uint32_t token;
  HtHits hits;  // in that team
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
  uint8_t place;     // of the token's home slots, the one for this row, or for its first hit
  uint8_t num_hits;  // 0: dropped
  uint32_t token;
};

// What an update leaves for dispatch and combine.
struct HtTotals {
  uint32_t num_tokens;  // of this rank
  uint32_t num_rows;    // that this rank receives, expert-major dropped ones included
  uint32_t num_slots;   // rows of the output, padding included; rank-wise rows in the flat layout
};

// Tokens that go to another team, and guests from there.
struct HtParcelCounts {
  uint32_t departing, guests;
};

// An expert's slots in the expert-major layout.
struct HtZone {
  uint32_t begin, num_rows, num_slots;  // the slots behind its rows are padding
};

// A handle's memory. A flow is what a rank pushes to one of its team: its own rows, or those from a rail peer. The flow from
// team t to the rank with place i has number t * team_size + i, so own flows have the numbers of ranks.
//   totals
//   sources     [rank + 1]             the first row of each rank, and the end
//   zones       [local expert]
//   num_dests   [hosted token]
//   dests       [hosted token][dest]   the team's, in the order of the ranks; then other teams, in theirs
//   outgoing    [flow]
//   sends       [row]                  own tokens', by (rank, token); behind them those of the guests from each other team
//   guest_hits  [row]                  of the guests' sends
//   parcels     [other team]           how many go there, and how many have come from there
//   departures  [other team][parcel]
//   places      [token][k]             which of the token's hits the k-th id is; kNoHit: none
//   homes       [row]
//   hits        [row][hit]             flat: the local expert; expert-major: the slot
struct HtHandleLayout {
  static constexpr uint64_t kAlign = 128;
  static constexpr uint8_t kNoHit = 255;
  static constexpr uint32_t kNoSlot = ~0u;

  uint32_t max_tokens, num_topk, max_dests, max_hits, max_rows;
  uint32_t team_sends;  // of one team's tokens, at most
  uint64_t sources, zones, num_dests, dests, outgoing, sends, guest_hits, parcels, departures, places, homes, hits, end;

  EP_HOST_DEVICE static HtHandleLayout make(const HtLayout& window, uint32_t num_topk) {
    HtHandleLayout x{};
    x.max_tokens = window.max_tokens;
    x.num_topk = num_topk;
    x.max_dests = window.max_dests_of(num_topk);
    x.max_hits = num_topk < window.num_local_experts() ? num_topk : window.num_local_experts();
    x.max_rows = window.max_rows;
    x.team_sends = window.max_tokens * (num_topk < window.team_size ? num_topk : window.team_size);
    const uint64_t num_hosted = window.num_hosted(), num_other_teams = window.num_other_teams();
    x.sources = align_up(sizeof(HtTotals), kAlign);
    x.zones = align_up(x.sources + sizeof(uint32_t) * (window.num_ranks + 1), kAlign);
    x.num_dests = align_up(x.zones + sizeof(HtZone) * window.num_local_experts(), kAlign);
    x.dests = align_up(x.num_dests + num_hosted, kAlign);
    x.outgoing = align_up(x.dests + sizeof(HtDest) * num_hosted * x.max_dests, kAlign);
    x.sends = align_up(x.outgoing + sizeof(HtOutgoing) * window.num_ranks, kAlign);
    x.guest_hits = align_up(x.sends + sizeof(HtSend) * window.num_teams * x.team_sends, kAlign);
    x.parcels = align_up(x.guest_hits + sizeof(HtHits) * num_other_teams * x.team_sends, kAlign);
    x.departures = align_up(x.parcels + sizeof(HtParcelCounts) * num_other_teams, kAlign);
    x.places = align_up(x.departures + sizeof(HtDeparture) * num_other_teams * x.max_tokens, kAlign);
    x.homes = align_up(x.places + uint64_t{x.max_tokens} * num_topk, kAlign);
    x.hits = align_up(x.homes + sizeof(HtHome) * x.max_rows, kAlign);
    x.end = align_up(x.hits + sizeof(uint32_t) * x.max_rows * x.max_hits, kAlign);
    return x;
  }

  EP_HOST_DEVICE uint64_t source_at(uint32_t rank) const { return sources + sizeof(uint32_t) * rank; }
  EP_HOST_DEVICE uint64_t zone_at(uint32_t expert) const { return zones + sizeof(HtZone) * expert; }
  EP_HOST_DEVICE uint64_t num_dests_at(uint32_t hosted_token) const { return num_dests + hosted_token; }
  EP_HOST_DEVICE uint64_t dest_at(uint32_t hosted_token, uint32_t dest) const {
    return dests + sizeof(HtDest) * (uint64_t{hosted_token} * max_dests + dest);
  }
  EP_HOST_DEVICE uint64_t outgoing_at(uint32_t flow) const { return outgoing + sizeof(HtOutgoing) * flow; }
  EP_HOST_DEVICE uint64_t send_at(uint64_t i) const { return sends + sizeof(HtSend) * i; }
  EP_HOST_DEVICE uint64_t guest_hits_at(uint64_t send) const {
    return guest_hits + sizeof(HtHits) * (send - team_sends);
  }
  EP_HOST_DEVICE uint64_t parcels_at(uint32_t other_team) const {
    return parcels + sizeof(HtParcelCounts) * other_team;
  }
  EP_HOST_DEVICE uint64_t departure_at(uint32_t other_team, uint32_t parcel) const {
    return departures + sizeof(HtDeparture) * (uint64_t{other_team} * max_tokens + parcel);
  }
  EP_HOST_DEVICE uint64_t place_at(uint32_t token, uint32_t k) const { return places + uint64_t{token} * num_topk + k; }
  EP_HOST_DEVICE uint64_t home_at(uint64_t row) const { return homes + sizeof(HtHome) * row; }
  EP_HOST_DEVICE uint64_t hit_at(uint64_t row, uint32_t hit) const {
    return hits + sizeof(uint32_t) * (row * max_hits + hit);
  }
  EP_HOST_DEVICE uint64_t size() const { return end; }
};

}  // namespace nccl_ep

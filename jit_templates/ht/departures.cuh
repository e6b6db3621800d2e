// SPDX-License-Identifier: Apache-2.0
// The tokens that leave their LSA team, in an update: a list for each other team, which a rank writes for its rail peer there.
#pragma once

#include "ht/place.cuh"
#include "ht/rails.cuh"

namespace nccl_ep::ht {

// The other teams that should have told their tallies, and have not: bits in the block's shared memory, by their numbers.
EP_DEVICE uint32_t* silent_teams() {
  EP_SHARED(uint32_t, words, [kMaxRanks / 32]);
  return words;
}

// The lists of this rank's tokens that go to other teams, as they are written into the outboxes.
template <Peers kPeers>
struct DepartureLists {
  // What a place's thread knows of the team that its expert is in.
  struct Departure {
    uint16_t team;
    uint8_t first_hit, num_hits;  // of the token, in the team
    bool leads;                   // the team's first expert, and the team is another one
  };

  const Rails<kPeers>& rails;
  const HtUpdateArgs& args;
  const UpdateScratch& scratch;
  uint32_t* teams;  // of the places' tokens, each at one place; in shared memory

  EP_DEVICE uint32_t team_begin(uint32_t rank) const { return rank - rank % args.group.layout.team_size; }
  EP_DEVICE bool is_in_team(uint32_t rank) const { return args.group.is_in_team(rank); }
  // Whether a rank's team has told its tallies, if it should. All threads of the block find the same, as below.
  EP_DEVICE bool has_told(uint32_t rank) const {
    if (!has_masks(kPeers) || is_in_team(rank)) return true;
    const uint32_t i = rails.number_of(rank / args.group.layout.team_size);
    return (silent_teams()[i / 32] >> i % 32 & 1) == 0;
  }
  EP_DEVICE bool all_have_told() const {
    bool all = true;
    for (uint32_t i = 0; has_masks(kPeers) && i < div_up(rails.size(), 32); ++i) all = all && silent_teams()[i] == 0;
    return all;
  }
  // Expert-major, a hit as its record has it: the slot, or, where its team says what that is, which of this rank's tokens for
  // which of the local experts.
  EP_DEVICE uint32_t hit(uint32_t rank, uint32_t local, uint32_t slot) const {
    if (!has_masks(kPeers) || args.drops || is_in_team(rank)) return slot;
    return local * args.group.layout.max_tokens + slot;
  }
  EP_DEVICE HtList list(uint32_t team) const {
    const HtLayout& layout = args.group.layout;
    const HtOutgoing& last = scratch.outgoing[(team + 1) * layout.team_size - 1];
    return {layout.team_size, layout.record_units(), scratch.total[layout.team_counter(team)],
            last.first + last.num_rows};
  }
  template <class T>
  EP_DEVICE T* at(uint32_t team, uint64_t offset) const {
    return rails.template out<T>(rails.number_of(team), rails.network.layout.list + offset);
  }

  // The threads of all places call it, and meet before what it has found is used.
  EP_DEVICE Departure find(const uint32_t* first_experts, const uint32_t* kept_experts, uint32_t base, uint32_t expert,
                           bool is_first) const {
    const uint32_t team_experts = args.group.num_local_experts * args.group.layout.team_size;
    const uint32_t team = expert / team_experts, first_expert = team * team_experts;
    const auto is_there = [&](uint32_t other) { return other - first_expert < team_experts; };
    uint32_t first_hit = 0, num_hits = 0;
    bool leads = is_first && team != rails.own_team();
    for (uint32_t j = 0; expert != kNone && j < args.topk.num_topk; ++j) {
      const uint32_t first = first_experts[base + j], kept = kept_experts[base + j];
      first_hit += kept < first_expert;
      num_hits += is_there(kept);
      leads = leads && !(is_there(first) && first < expert);
    }
    teams[dev::thread_idx()] = leads && num_hits > 0 ? team : kNone;
    return {static_cast<uint16_t>(team), static_cast<uint8_t>(first_hit), static_cast<uint8_t>(num_hits), leads};
  }
  EP_DEVICE uint32_t num_teams(uint32_t base) const {
    uint32_t num_teams = 0;
    for (uint32_t j = 0; j < args.topk.num_topk; ++j) num_teams += teams[base + j] != kNone;
    return num_teams;
  }

  // Remembers a token that goes to another team, and tells the rail peer to how many ranks. `team_dests`: the token's
  // destinations in this team, which come before the others.
  template <class Placement>
  EP_DEVICE void note(const Departure& it, const Placement& placement, const Places& places, uint32_t base,
                      uint32_t token, uint32_t team_dests) const {
    if (!it.leads) return;
    const uint32_t team_size = args.group.layout.team_size, first_rank = it.team * team_size;
    uint32_t dest = team_dests, num_there = 0;
    for (uint32_t j = 0; j < args.topk.num_topk; ++j) {
      dest += teams[base + j] < it.team;
      num_there += places.experts[base + j] - first_rank < team_size;
    }
    const uint32_t parcel = placement.number(args.group.layout.team_counter(it.team));
    const HtHits hits{it.first_hit, it.num_hits};
    *args.handle.departure(rails.number_of(it.team), parcel) = {token, hits};
    if (num_there > 0) {
      *args.handle.dest(token, dest) = {static_cast<uint16_t>(rails.peer_in(it.team)), hits, parcel};
    }
    *at<uint8_t>(it.team, list(it.team).num_dests_at(parcel)) = static_cast<uint8_t>(num_there);
  }

  // The record of a row on a rank of another team. It says as well where its hits begin among those in that team.
  template <class Placement>
  EP_DEVICE void write(const Departure& it, const Placement& placement, uint32_t record, uint32_t first_hit,
                       uint32_t dest_idx, uint32_t num_hits, const uint32_t* hits) const {
    const uint32_t parcel = placement.number(args.group.layout.team_counter(it.team));
    const HtList there = list(it.team);
    write_record(args.group.rank, parcel, dest_idx, num_hits, hits, [&](uint32_t i, Unit unit) {
      if (i == 0) unit.epoch = first_hit - it.first_hit;
      dev::st(at<Unit>(it.team, there.record_at(record, i)), unit);
    });
  }

  // The rest of a list.
  EP_DEVICE HtList finish(uint32_t team) const {
    const HtList it = list(team);
    dev::st(at<HtListHead>(team, 0), HtListHead{it.num_parcels, it.num_records});
    for (uint32_t i = 0; i < it.team_size; ++i) {
      *at<HtOutgoing>(team, it.outgoing_at(i)) = scratch.outgoing[team * it.team_size + i];
    }
    args.handle.parcels(rails.number_of(team))->departing = it.num_parcels;
    return it;
  }
};

}  // namespace nccl_ep::ht

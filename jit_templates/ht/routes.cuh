// SPDX-License-Identifier: Apache-2.0
// Which ranks each token goes to, and which of its hits are where. It takes no counts to know that, unless something is lost.
#pragma once

#include "ht/counts.cuh"

namespace nccl_ep::ht {

// The places of some tokens' top-k, a thread for each: what they know of each other.
struct Places {
  uint32_t experts[kHtUpdateThreads];  // of each place; then the ranks that a token goes to, each at one place
  uint32_t first[kHtUpdateThreads];    // an expert that stands at none of the token's places before
  uint32_t kept[kHtUpdateThreads];     // one of those that keeps the token
  uint32_t hits[kHtUpdateThreads];     // [token][hit]: flat the local expert, expert-major the slot
};

// Who takes part, and who keeps a token, as long as nobody is left out and there is room for all.
struct NothingLost {
  static constexpr bool kKeepsAll = true;
  EP_DEVICE static bool takes_part(uint32_t) { return true; }
  EP_DEVICE static bool is_kept(uint32_t, uint32_t) { return true; }
};

// The expert at a place of the table, or kNone: also one that no token can go to.
template <Peers kPeers, class Left>
EP_DEVICE uint32_t load_hosted_expert(const Operation<kPeers>& op, const TopkTable& topk, uint32_t place,
                                      const Left& left) {
  const uint32_t expert = load_expert(op.group, topk, place);
  if (expert == kNone) return kNone;
  const uint32_t rank = expert / op.group.num_local_experts;
  return goes_to(op, rank, [&](uint32_t other) { return left.takes_part(other); }) ? expert : kNone;
}

// The place of a token's top-k that is this thread's, among those of the tokens of a tile that are looked at together.
struct Place {
  uint32_t token, k;
  uint32_t base;  // the thread that has the token's first place
  bool exists;

  EP_DEVICE Place(const HtUpdateArgs& args, const Tile& tile, uint32_t begin) {
    const uint32_t num_topk = args.topk.num_topk, me = dev::thread_idx();
    k = me % num_topk;
    base = me - k;
    token = begin + me / num_topk;
    exists = me < dev::num_threads() / num_topk * num_topk && token < tile.end;
  }
};

// What a place's thread knows of its token before it knows where rows lie: of the expert, and of the expert's rank.
template <class Departure>
struct TokenRoute {
  uint32_t expert;
  uint8_t hit, num_hits;        // of the token's hits, those before this one; those on the rank
  uint8_t num_dests, dest_idx;  // of its ranks, those in this team; those before this one in its team
  bool is_first;                // no place before has the same expert
  bool is_kept;                 // the expert has room for it
  bool leads;                   // the rank's first expert
  Departure departure;

  EP_DEVICE bool is_dest() const { return leads && num_hits > 0; }
};
template <class Departures>
using RouteOf = TokenRoute<typename Departures::Departure>;

// Finds the routes of some tokens of a tile. All threads of the block call it, and meet. `Departures` is about other teams
// (departures.cuh).
template <class Departures, class Left, Peers kPeers>
EP_DEVICE RouteOf<Departures> find_routes(const Operation<kPeers>& op, const HtUpdateArgs& args, const Place& place,
                                          Places& places, const Departures& departures, const Left& left) {
  const uint32_t me = dev::thread_idx(), num_topk = args.topk.num_topk, num_local = args.group.num_local_experts;
  const uint32_t expert =
      place.exists ? load_hosted_expert(op, args.topk, place.token * num_topk + place.k, left) : kNone;
  const uint32_t rank = expert / num_local, first_expert = rank * num_local;
  const auto is_here = [&](uint32_t other) { return other - first_expert < num_local; };
  const bool is_kept = expert != kNone && left.is_kept(expert, rank);
  uint32_t* const kept_experts = Left::kKeepsAll ? places.first : places.kept;
  places.experts[me] = expert;
  dev::sync_block();

  bool is_first = expert != kNone;
#pragma unroll 1
  for (uint32_t j = 0; j < place.k; ++j) is_first = is_first && places.experts[place.base + j] != expert;
  places.first[me] = is_first ? expert : kNone;
  if (!Left::kKeepsAll) kept_experts[me] = is_first && is_kept ? expert : kNone;
  dev::sync_block();

  uint32_t hit = 0, num_hits = 0;
  bool leads = is_first;
#pragma unroll 1
  for (uint32_t j = 0; place.exists && j < num_topk; ++j) {
    const uint32_t first = places.first[place.base + j], kept = kept_experts[place.base + j];
    hit += kept < expert;
    num_hits += is_here(kept);
    leads = leads && !(is_here(first) && first < expert);
  }
  places.experts[me] = leads && num_hits > 0 ? rank : kNone;
  const auto departure = departures.find(places.first, kept_experts, place.base, expert, is_first);
  dev::sync_block();

  const uint32_t first_rank = departures.team_begin(rank);
  uint32_t num_dests = 0, dest_idx = 0;
#pragma unroll 1
  for (uint32_t j = 0; place.exists && j < num_topk; ++j) {
    const uint32_t dest = places.experts[place.base + j];
    num_dests += departures.is_in_team(dest);
    dest_idx += dest - first_rank < rank - first_rank;
  }
  const auto small = [](uint32_t count) { return static_cast<uint8_t>(count); };
  return {expert, small(hit), small(num_hits), small(num_dests), small(dest_idx), is_first, is_kept, leads, departure};
}

// The routes of a block's first tokens if nothing is lost: they are found while nobody knows yet whether it is.
template <class Departures, Peers kPeers>
EP_DEVICE RouteOf<Departures> find_first_routes(const Operation<kPeers>& op, const HtUpdateArgs& args, Places& places,
                                                const Departures& departures) {
  const Tile tile(args, 0);
  return find_routes(op, args, Place(args, tile, tile.begin), places, departures, NothingLost());
}

}  // namespace nccl_ep::ht

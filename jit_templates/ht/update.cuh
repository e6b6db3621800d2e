// SPDX-License-Identifier: Apache-2.0
// UpdateHandle for High Throughput: who sends how much to whom, and where each row will lie, in one launch.
//
// Parties: each rank counts its tokens for every rank and every expert, sends the counts to all, and waits for theirs. Then
// it knows the final row of each of its tokens on each rank, and tells the receivers what they must know of each row.
// Each block has consecutive tokens, so rows lie by (source rank, token); all blocks run at a time, and tell each other
// their counts. What a rank has no room for is thinned out, or a fault. Memory: counts and records of the windows, the
// handle's memory. Waits: for blocks, for peers, for records.
#pragma once

#include "ht/participants.cuh"
#include "ht/place.cuh"

namespace nccl_ep::ht {

// The other LSA teams, where there are none (update_remote.cuh has those that there are).
template <Peers kOthers = Peers::team>
struct NoOtherTeams {
  static constexpr Peers kPeers = kOthers;
  struct Departures {
    struct Departure {};
    EP_DEVICE static uint32_t team_begin(uint32_t) { return 0; }
    EP_DEVICE static bool is_in_team(uint32_t rank) { return rank != kNone; }
    EP_DEVICE static bool has_told(uint32_t) { return true; }
    EP_DEVICE static bool all_have_told() { return true; }
    EP_DEVICE static Departure find(const uint32_t*, const uint32_t*, uint32_t, uint32_t, bool) { return {}; }
    EP_DEVICE static uint32_t num_teams(uint32_t) { return 0; }
    EP_DEVICE static uint32_t hit(uint32_t, uint32_t, uint32_t hit) { return hit; }
    template <class... Args>
    EP_DEVICE static void note(const Args&...) {}
    template <class... Args>
    EP_DEVICE static void write(const Args&...) {}
  };

  EP_DEVICE static NoRails rails() { return {}; }
  EP_DEVICE static uint32_t num_rails() { return 0; }
  EP_DEVICE static bool await_peer(const Operation<kPeers>&, uint32_t) { return true; }
  EP_DEVICE static bool deal_with(const Operation<kPeers>&, uint32_t) { return true; }
  EP_DEVICE static uint32_t num_senders() { return 1; }
  EP_DEVICE static bool exchange_counts(const Operation<kPeers>&, const UpdateScratch&) { return true; }
  EP_DEVICE static void note_count(const UpdateScratch&, uint32_t, uint32_t, uint32_t, uint32_t) {}
  EP_DEVICE static void note_zone(const UpdateScratch&, uint32_t, uint32_t, const HtZone&) {}
  EP_DEVICE static void exchange_tallies(const Operation<kPeers>&, const UpdateScratch&) {}
  EP_DEVICE static bool begin_lists(const Operation<kPeers>&, const UpdateScratch&) { return true; }
  EP_DEVICE static Departures departures(const UpdateScratch&) { return {}; }
  EP_DEVICE static void exchange_lists(const Operation<kPeers>&, const UpdateScratch&) {}
};

// All ranks tell each other their counts. All threads of all blocks call it, and meet.
template <Peers kPeers, class OtherTeams>
EP_DEVICE bool exchange_counts(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                               const OtherTeams& others) {
  if constexpr (has_masks(kPeers)) {
    return exchange_masked_counts(op, args, scratch, others);
  } else {
    if (dev::block_idx() == 0) send_counts(op, scratch);
    const bool exchanged = others.exchange_counts(op, scratch);
    const auto await = [&](const Awaited& awaited, const uint32_t&, auto ready) { return op.wait_for(awaited, ready); };
    const bool has_all = exchanged && add_ranks(
                                          op, args.handle, scratch, [](uint32_t) { return true; }, await,
                                          [](uint32_t, uint32_t, uint32_t, uint32_t) {});
    return dev::all_in_block(has_all);
  }
}

// What all do when their tokens are counted. The routes of the first ones are found while other blocks count theirs. All threads of
// all blocks call it, and meet.
template <bool kExpertMajor, class OtherTeams, Peers kPeers>
EP_DEVICE void give_rows(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                         const OtherTeams& others) {
  EP_SHARED(Places, places, [1]);
  EP_SHARED(RouteOf<typename OtherTeams::Departures>, first_routes, [kHtUpdateThreads]);  // each thread's own
  const auto departures = others.departures(scratch);
  auto& first = first_routes[dev::thread_idx()];
  if (has_tokens(args)) first = find_first_routes(op, args, places[0], departures);
  if (!add_blocks(op, args, scratch, others) || !exchange_counts(op, args, scratch, others)) return;
  others.exchange_tallies(op, scratch);
  if (!kExpertMajor && args.drops) thin_rows(args, scratch);
  find_outgoing(args, scratch);
  const bool all_fit = find_zones<kExpertMajor>(op, args, scratch, others);
  if (!all_fit && !args.drops) report_overflow(args, scratch, op.epoch);
  const bool goes_on = (all_fit || args.drops) && others.begin_lists(op, scratch);
  if (goes_on) {
    place_all<kExpertMajor>(op, args, scratch, places[0], !all_fit, departures, first);
    others.exchange_lists(op, scratch);
  }
  if (dev::block_idx() == 0 && dev::warp_idx() == 0) report_rows<kExpertMajor>(args, scratch, goes_on);
  if (goes_on) receive_records<kExpertMajor>(op, args, scratch);
}

template <bool kExpertMajor, class OtherTeams>
EP_DEVICE void update_with(const HtUpdateArgs& args, const OtherTeams& others) {
  EP_DYNAMIC_SHARED(shared);
  const UpdateScratch scratch(args, shared);
  const auto greets = [&](uint32_t rank) {
    return !has_masks(OtherTeams::kPeers) || rank == args.group.rank || !is_masked(args.group, rank);
  };
  const HtStart& start = find_start(args.group, [&](uint32_t epoch) {
    if (dev::block_idx() == 0) greet(args.group, others.rails(), epoch, greets);
  });
  has_tokens(args) ? count_tiles(args, scratch) : dev::sync_block();
  const Operation<OtherTeams::kPeers> op(args, start);
  const bool is_first = dev::block_idx() == 0 && dev::thread_idx() == 0;
  if (start.ready) {
    if (has_tokens(args)) tell_blocks(op, args, scratch);
    if (is_first) check_count(args.group, args.topk.tokens);
    give_rows<kExpertMajor>(op, args, scratch, others);
  }
  // Unless the group has failed all blocks know the number of the operation by now, since this one has seen their counts.
  if (is_first) dev::st_relaxed<dev::Scope::gpu>(&args.group.progress->epoch, op.epoch);
}

template <bool kExpertMajor, Peers kPeers = Peers::team>
EP_DEVICE void update(const HtUpdateArgs& args) {
  update_with<kExpertMajor>(args, NoOtherTeams<kPeers>());
}

}  // namespace nccl_ep::ht

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
  struct Departure {};
  struct Departures {
    EP_DEVICE static uint32_t team_begin(uint32_t) { return 0; }
    EP_DEVICE static bool is_in_team(uint32_t rank) { return rank != kNone; }
    EP_DEVICE static Departure find(const Places&, uint32_t, uint32_t, bool) { return {}; }
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
  EP_DEVICE static uint32_t num_senders(const Operation<kPeers>& op) { return op.group.layout.team_size; }
  EP_DEVICE static bool exchange_counts(const Operation<kPeers>&, const UpdateScratch&) { return true; }
  EP_DEVICE static void note_count(const UpdateScratch&, uint32_t, uint32_t, uint32_t, uint32_t) {}
  EP_DEVICE static void note_zone(const UpdateScratch&, uint32_t, uint32_t, const HtZone&) {}
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
    const bool sent = send_counts(op, scratch), exchanged = others.exchange_counts(op, scratch);
    const auto await = [&](const Awaited& awaited, const uint32_t&, auto ready) { return op.wait_for(awaited, ready); };
    const bool has_all = sent && exchanged &&
                         add_ranks(
                             op, args.handle, scratch, [](uint32_t) { return true; }, await,
                             [](uint32_t, uint32_t, uint32_t, uint32_t) {});
    return all_in_block(has_all);
  }
}

template <bool kExpertMajor, class OtherTeams>
EP_DEVICE void update_with(const HtUpdateArgs& args, const OtherTeams& others) {
  EP_DYNAMIC_SHARED(shared);
  const UpdateScratch scratch(args, shared);
  const HtStart start = begin(args.group, others.rails(), [&](uint32_t rank) {
    return !has_masks(OtherTeams::kPeers) || rank == args.group.rank || !is_masked(args.group, rank);
  });
  const Operation<OtherTeams::kPeers> op(args, start);
  if (start.ready) {
    if (dev::block_idx() == 0 && dev::thread_idx() == 0) check_count(args.group, args.topk.tokens);
    count_block(args, scratch, op.epoch);
    bool ok = add_blocks(op, args, scratch);
    if (ok) ok = exchange_counts(op, args, scratch, others);
    if (ok) {
      if (!kExpertMajor && args.drops) thin_rows(args, scratch);
      find_outgoing(args, scratch);
      find_zones<kExpertMajor>(op, args, scratch, others);
      const bool all_fit = fits(args, scratch, op.epoch);
      if ((all_fit || args.drops) && others.begin_lists(op, scratch)) {
        place_all<kExpertMajor>(op, args, scratch, !all_fit, others.departures(scratch));
        others.exchange_lists(op, scratch);
        receive_records<kExpertMajor>(op, args, scratch);
        tell_host(args);
      }
    }
  }
  finish(op);
}

template <bool kExpertMajor, Peers kPeers = Peers::team>
EP_DEVICE void update(const HtUpdateArgs& args) {
  update_with<kExpertMajor>(args, NoOtherTeams<kPeers>());
}

}  // namespace nccl_ep::ht

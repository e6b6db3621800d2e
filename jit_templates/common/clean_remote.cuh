// SPDX-License-Identifier: Apache-2.0
// Cleaning masks (clean.cuh) in a group of several LSA teams.
//
// Between teams ranks speak in signals. The first word is strong and said in every context: who has heard it in all of them
// knows that whatever the rank put there before has arrived. The second word goes only to those that have been heard. So who
// hears it knows that of its own puts to the rank: they have left the outbox, and what it puts from now on is not overtaken
// by them. That is what an operation relies on otherwise because all of them wait for one another.
#pragma once

#include "common/clean.cuh"
#include "common/remote_waits.cuh"

namespace nccl_ep {

template <class Group, class Network>
struct TeamsMeetings {
  using Signals = SignalsOf<Group, Network>;
  static constexpr uint32_t kContext = 0;  // of the second meeting

  const Group& group;
  const Network& network;
  MaskMeetings at;

  EP_DEVICE explicit TeamsMeetings(const CleanRemoteArgs<Group, Network>& args)
      : group(args.group), network(args.network), at(args.group.layout.meetings()) {}

  EP_DEVICE TeamsLifeOf<Group, Network> life() const { return {group, network}; }
  EP_DEVICE void say(uint32_t phase, uint32_t rank, uint32_t number) const {
    if (life().is_in_team(rank)) return in_team().say(phase, rank, number);
    if (phase != 0) return signals().tell(kContext, Signals::Numbers::kAgreement, rank, number);
    for (uint32_t context = 0; context < network.comm.num_contexts; ++context) {
      signals().tell_strongly(context, Signals::Numbers::kMeeting, rank, number);
    }
  }
  EP_DEVICE uint32_t heard(uint32_t phase, uint32_t rank) const {
    if (life().is_in_team(rank)) return in_team().heard(phase, rank);
    return signals().count(kContext, signal(phase, rank));
  }
  // Whether this is what the rank has said, in all contexts.
  EP_DEVICE bool hears(uint32_t phase, uint32_t rank, uint32_t number) const {
    if (life().is_in_team(rank)) return in_team().hears(phase, rank, number);
    bool same = true;
    for (uint32_t context = 0; context < (phase == 0 ? network.comm.num_contexts : 1); ++context) {
      same &= signals().count(context, signal(phase, rank)) == number;
    }
    return same;
  }

 private:
  EP_DEVICE TeamMeetings in_team() const { return {group, at, network.first_rank, life().window_first()}; }
  EP_DEVICE Signals signals() const { return {group, network}; }
  EP_DEVICE uint32_t signal(uint32_t phase, uint32_t rank) const {
    return signals().numbers().of(phase == 0 ? Signals::Numbers::kMeeting : Signals::Numbers::kAgreement, rank);
  }
};

// A block of one warp.
template <class Group, class Network>
EP_DEVICE void clean_remote(const CleanRemoteArgs<Group, Network>& args) {
  clean(args.group, TeamsMeetings<Group, Network>(args));
  if (dev::lane_idx() == 0) dev::st_relaxed<dev::Scope::gpu>(&args.network.mask_progress->flushed_in_vain, 0u);
}

}  // namespace nccl_ep

// SPDX-License-Identifier: Apache-2.0
// Cleaning masks (common/clean.cuh) in a Low-Latency group of several LSA teams.
//
// Between teams ranks speak in signals. The first word is strong and said in every context: who has heard it in all of them
// knows that whatever the rank put there before has arrived. The second word goes only to those that have been heard. So who
// hears it knows that of its own puts to the rank: they have left the outbox, and what it puts from now on is not overtaken
// by them. That is what an operation relies on otherwise because all of them wait for one another.
#pragma once

#include "common/clean.cuh"
#include "ll/remote_waits.cuh"

namespace nccl_ep::ll {

struct TeamsMeetings {
  static constexpr uint32_t kContext = 0;  // of the second meeting

  const LlCleanArgs& args;
  MaskMeetings at;

  EP_DEVICE explicit TeamsMeetings(const LlCleanArgs& given) : args(given), at(given.group.layout.meetings()) {}

  EP_DEVICE void say(uint32_t phase, uint32_t rank, uint32_t number) const {
    if (team().has(rank)) return in_team().say(phase, rank, number);
    if (phase != 0) return signals().tell(kContext, LlSignals::kAgreement, rank, number);
    for (uint32_t context = 0; context < args.network.comm.num_contexts; ++context) {
      signals().tell_strongly(context, LlSignals::kMeeting, rank, number);
    }
  }
  EP_DEVICE uint32_t heard(uint32_t phase, uint32_t rank) const {
    if (team().has(rank)) return in_team().heard(phase, rank);
    return signals().count(kContext, signal(phase, rank));
  }
  // Whether this is what the rank has said, in all contexts.
  EP_DEVICE bool hears(uint32_t phase, uint32_t rank, uint32_t number) const {
    if (team().has(rank)) return in_team().hears(phase, rank, number);
    bool same = true;
    for (uint32_t context = 0; context < (phase == 0 ? args.network.comm.num_contexts : 1); ++context) {
      same &= signals().count(context, signal(phase, rank)) == number;
    }
    return same;
  }
  EP_DEVICE TeamsLife life() const { return {args.group, args.network}; }

 private:
  EP_DEVICE LsaTeam team() const { return team_of<Peers::masked_teams>(args); }
  EP_DEVICE TeamMeetings in_team() const { return {args.group, at, team().first}; }
  EP_DEVICE Signals signals() const { return {args.group, args.network}; }
  EP_DEVICE uint32_t signal(uint32_t phase, uint32_t rank) const {
    return signals().numbers().of(phase == 0 ? LlSignals::kMeeting : LlSignals::kAgreement, rank);
  }
};

EP_DEVICE void clean_remote(const LlCleanArgs& args) {
  clean(args.group, TeamsMeetings(args));
  if (dev::lane_idx() == 0) dev::st_relaxed<dev::Scope::gpu>(&args.network.mask_progress->flushed_in_vain, 0u);
}

}  // namespace nccl_ep::ll

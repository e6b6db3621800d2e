// SPDX-License-Identifier: Apache-2.0
// Making all ranks take part again, those that were masked too.
//
// Parties: every rank that calls it, one warp each; the others stay masked or become so. They meet twice. First each says
// how many operations it has started, then, with the greatest of these numbers, where all are to go on: far enough ahead that
// nothing that is in a window belongs to a later operation. Who does not come is masked, and so is who has heard of other
// ranks and therefore says another number. A rank that came too late for the others finds them gone in the second meeting.
//
// What a rank said when it was cleaning before and others were not is heard now. It is too little, and nobody agrees on a
// number that is behind a rank's own. So all go on listening while they wait for one another's second word, and say a greater
// number when they have learned of one.
// Memory: what each rank has said last, in both meetings. Its numbers grow, so one that has been heard before is old.
#pragma once

#include "common/patience.cuh"

namespace nccl_ep {

// What is said in the LSA team: a unit for each meeting and source in every window, whose tag is the number. Windows are
// addressed as in TeamLife.
struct TeamMeetings {
  const GroupState& group;
  const MaskMeetings& at;
  uint32_t first_rank, window_first;

  EP_DEVICE void say(uint32_t phase, uint32_t rank, uint32_t number) const {
    dev::st_unit(place(phase, rank, group.rank), Unit{{0, 0, 0}, number});
  }
  EP_DEVICE uint32_t heard(uint32_t phase, uint32_t rank) const {
    return dev::ld_unit(place(phase, group.rank, rank)).epoch;
  }
  EP_DEVICE bool hears(uint32_t phase, uint32_t rank, uint32_t number) const { return heard(phase, rank) == number; }
  EP_DEVICE TeamLife life() const { return TeamLife(group, first_rank, at.num_ranks, window_first); }

 private:
  EP_DEVICE Unit* place(uint32_t phase, uint32_t at_rank, uint32_t of_rank) const {
    return group.window.at<Unit>(at_rank - window_first, at.at(phase, of_rank - first_rank));
  }
};

// Where all go on that have met: the same for all even if some have heard of a rank that is somewhat ahead and others not.
EP_DEVICE uint32_t epoch_after(uint32_t greatest) {
  constexpr uint32_t kStride = 64;
  return (greatest / kStride + 2) * kStride;
}

// How far the farthest rank is ahead of this one, as far as the warp has heard. Epochs roll over, so they are compared so.
struct Farthest {
  uint32_t epoch;
  uint32_t* ahead;  // in shared memory

  EP_DEVICE uint32_t lead() const { return dev::ld_relaxed<dev::Scope::block>(ahead); }
  EP_DEVICE void note(uint32_t theirs) const {
    const uint32_t more = theirs - epoch;
    uint32_t known = lead();
    while (static_cast<int32_t>(more) > 0 && known < more) {
      const uint32_t before = dev::atomic_cas<dev::Order::relaxed, dev::Scope::block>(ahead, known, more);
      if (before == known) return;
      known = before;
    }
  }
};

// All ranks are waited for, masked or not.
EP_DEVICE void unmask_all(const GroupState& group) {
  for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
    dev::st_relaxed<dev::Scope::gpu>(group.mask.active + rank, 1u);
  }
  dev::sync_warp();
}

// Cleaning, as the lanes of a warp see it: each meets the ranks at its index, 32 behind, and so on.
template <class Meetings>
struct Cleaning {
  enum Phase : uint32_t { kStarted, kAgreed };

  const GroupState& group;
  const Meetings& meetings;
  Farthest farthest;

  // Looks whether a rank has said something new of what it has started.
  EP_DEVICE bool listen(uint32_t rank) const {
    uint32_t* seen = group.mask.seen + rank;
    const uint32_t number = meetings.heard(kStarted, rank);
    if (number == dev::ld(seen) || !meetings.hears(kStarted, rank, number)) return false;
    dev::st(seen, number);
    farthest.note(number - 1);
    return true;
  }

  EP_DEVICE void meet_first() const {
    for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
      meetings.say(kStarted, rank, farthest.epoch + 1);
    }
    for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
      wait_patiently(meetings.life(), farthest.epoch, {Wait::mask_meeting, rank, 0}, [&] { return listen(rank); });
    }
  }

  // Returns the number that all say who are not masked then.
  EP_DEVICE uint32_t agree() const {
    for (;;) {
      dev::sync_warp();
      const uint32_t lead = dev::shfl(farthest.lead(), 0), agreed = epoch_after(farthest.epoch + lead);
      for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
        if (!is_masked(group, rank)) meetings.say(kAgreed, rank, agreed);
      }
      for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
        if (is_masked(group, rank)) continue;
        wait_patiently(meetings.life(), farthest.epoch, {Wait::mask_agreement, rank, 0}, [&] {
          listen(rank);
          return farthest.lead() != lead || meetings.hears(kAgreed, rank, agreed);
        });
      }
      dev::sync_warp();
      if (!dev::any(farthest.lead() != lead)) return agreed;
    }
  }
};

// A block of one warp.
template <class Meetings>
EP_DEVICE void clean(const GroupState& group, const Meetings& meetings) {
  EP_SHARED(uint32_t, ahead, [1]);
  if (dev::lane_idx() == 0) ahead[0] = 0;
  unmask_all(group);
  GroupProgress* progress = group.progress;
  const uint32_t epoch = dev::ld_relaxed<dev::Scope::gpu>(&progress->epoch);
  const Cleaning<Meetings> cleaning{group, meetings, {epoch, ahead}};
  cleaning.meet_first();
  const uint32_t agreed = cleaning.agree();
  if (dev::lane_idx() != 0) return;
  dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, agreed);
  dev::st_relaxed<dev::Scope::gpu>(&progress->banks_free, 0u);
}

EP_DEVICE void clean(const CleanArgs& args) { clean(args.group, TeamMeetings{args.group, args.meetings, 0, 0}); }

}  // namespace nccl_ep

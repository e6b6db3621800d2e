// SPDX-License-Identifier: Apache-2.0
// Making all ranks take part again, those that were masked too.
//
// Parties: every rank that calls it, one warp each; the others stay masked or become so. They meet twice. First each says
// how many operations it has started, then, with the greatest of these numbers, where all are to go on: far enough ahead that
// nothing that is in a window belongs to a later operation. Who does not come, or has heard of other ranks and therefore
// says another number, is masked. A rank that came too late for the others finds them gone in the second meeting.
// Memory: a unit for each phase and source in every window. A tag that has been read before is old.
#pragma once

#include "common/patience.cuh"

namespace nccl_ep {

// One meeting, as a lane sees it: with the ranks at its index, 32 behind, and so on.
struct MaskMeeting {
  const CleanArgs& args;
  uint32_t phase;
  Wait wait;

  EP_DEVICE void say(uint32_t number, uint32_t tag) const {
    for (uint32_t rank = dev::lane_idx(); rank < args.group.num_ranks; rank += 32) {
      dev::st_unit(place(rank, args.group.rank), Unit{{number, 0, 0}, tag});
    }
  }

  // What a rank says; false: it does not come.
  EP_DEVICE bool hear(uint32_t source, uint32_t epoch, uint32_t& number) const {
    Unit unit;
    uint32_t* seen = args.group.mask.seen + phase * args.group.num_ranks + source;
    const uint32_t old = dev::ld(seen);
    if (!wait_patiently(args.group, epoch, {wait, source, 0}, [&] {
          unit = dev::ld_unit(place(args.group.rank, source));
          return unit.epoch != old;
        })) {
      return false;
    }
    dev::st(seen, unit.epoch);
    number = unit.word[0];
    return true;
  }

 private:
  EP_DEVICE Unit* place(uint32_t at_rank, uint32_t of_rank) const {
    return args.group.window.at<Unit>(at_rank, args.meetings.at(phase, of_rank));
  }
};

// Where all go on that have met: the same for all even if some have heard of a rank that is somewhat ahead and others not.
EP_DEVICE uint32_t epoch_after(uint32_t greatest) {
  constexpr uint32_t kStride = 64;
  return (greatest / kStride + 2) * kStride;
}

// All ranks are waited for, masked or not.
EP_DEVICE void unmask_all(const CleanArgs& args) {
  for (uint32_t rank = dev::lane_idx(); rank < args.group.num_ranks; rank += 32) {
    dev::st_relaxed<dev::Scope::gpu>(args.group.mask.active + rank, 1u);
  }
  dev::sync_warp();
}

// A block of one warp.
EP_DEVICE void clean(const CleanArgs& args) {
  const GroupState& group = args.group;
  GroupProgress* progress = group.progress;
  const uint32_t epoch = dev::ld_relaxed<dev::Scope::gpu>(&progress->epoch);
  const uint32_t tag = dev::ld(&progress->num_cleanings) + 1;
  unmask_all(args);

  const MaskMeeting first{args, 0, Wait::mask_meeting}, second{args, 1, Wait::mask_agreement};
  first.say(epoch, tag);
  uint32_t greatest = epoch;
  for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
    uint32_t theirs;
    if (first.hear(rank, epoch, theirs) && static_cast<int32_t>(theirs - greatest) > 0) greatest = theirs;
  }
  // The greatest of all lanes. Epochs roll over, so they are compared by how far they are ahead of this rank's.
  const uint32_t agreed = epoch_after(epoch + dev::max_warp(greatest - epoch));
  second.say(agreed, tag);
  for (uint32_t rank = dev::lane_idx(); rank < group.num_ranks; rank += 32) {
    uint32_t theirs;
    if (is_masked(group, rank) || !second.hear(rank, epoch, theirs)) continue;
    if (theirs != agreed) lose(group, epoch, {Wait::mask_agreement, rank, 0});
  }
  if (dev::lane_idx() != 0) return;
  dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, agreed);
  dev::st_relaxed<dev::Scope::gpu>(&progress->banks_free, 0u);
  dev::st(&progress->num_cleanings, tag);
}

}  // namespace nccl_ep

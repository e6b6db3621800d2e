// SPDX-License-Identifier: Apache-2.0
// Bounded waits of groups with masks: a rank that is waited for in vain is masked, and the operation goes on without it.
#pragma once

#include "common/waiting.cuh"

namespace nccl_ep {

EP_DEVICE bool is_masked(const GroupState& group, uint32_t peer) {
  return dev::ld_relaxed<dev::Scope::gpu>(group.mask.active + peer) == 0;
}

// From now on the group goes on without the awaited rank.
EP_DEVICE void lose(const GroupState& group, uint32_t epoch, const Awaited& awaited) {
  if (dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(group.mask.active + awaited.peer, 0u) == 0) return;
  if (dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->has_losses, 1u) != 0) return;
  write_record(&group.faults->loss, group,
               {FaultRecord::kTimeout, awaited.what, 0, awaited.peer, awaited.token, epoch, 0});
}

// How long a wait has lasted. Who waits for a dead rank keeps others waiting in turn. So that they do not mistake it for dead,
// it shows a sign of life when half its patience is gone, and they have theirs once more.
struct Patience {
  uint64_t start = 0;
  uint32_t peer = 0;
  uint32_t sign = 0;  // the peer's, as the wait began
  enum Stage : uint32_t { kFirst, kShown, kSecond } stage = kFirst;

  EP_DEVICE void begin(const GroupState& group, uint32_t awaited_peer) {
    *this = Patience();
    start = dev::clock_ns();
    peer = awaited_peer;
    sign = sign_of(group, peer);
  }

  // Whether it has run out.
  EP_DEVICE bool ends(const GroupState& group, uint32_t awaited_peer) {
    const uint64_t now = dev::clock_ns(), waited = now - start;
    if (stage == kFirst && waited > group.timeout_ns / 2) show(group, static_cast<uint32_t>(now));
    if (waited <= group.timeout_ns) return false;
    if (stage == kSecond || sign_of(group, awaited_peer) == sign) return true;
    start = now;
    stage = kSecond;
    return false;
  }

 private:
  EP_DEVICE static uint32_t* place(const GroupState& group, uint32_t at_rank, uint32_t of_rank) {
    return group.window.at<uint32_t>(at_rank, group.mask.life_at + sizeof(uint32_t) * of_rank);
  }
  EP_DEVICE static uint32_t sign_of(const GroupState& group, uint32_t peer) {
    return dev::ld_relaxed<dev::Scope::system>(place(group, group.rank, peer));
  }
  EP_DEVICE void show(const GroupState& group, uint32_t news) {
    stage = kShown;
#pragma unroll 1
    for (uint32_t rank = 0; rank < group.num_ranks; ++rank) {
      dev::st_relaxed<dev::Scope::system>(place(group, rank, group.rank), news);
    }
  }
};

// As wait_for(). False as well: the awaited rank is masked. kPeerChanges: ready() may put another rank into `awaited`.
template <bool kWholeWarp = false, bool kPeerChanges = false, class Ready>
EP_DEVICE bool wait_patiently(const GroupState& group, uint32_t epoch, const Awaited& awaited, Ready ready) {
  const auto agreed = [](bool mine) { return kWholeWarp ? dev::any(mine) : mine; };
  Patience patience;
#pragma unroll 1
  for (uint32_t polls = 0; !ready(); ++polls) {
    if (polls < dev::kPollsBeforeClock) continue;
    const bool is_other = kPeerChanges && awaited.peer != patience.peer;
    if (polls == dev::kPollsBeforeClock || is_other) patience.begin(group, awaited.peer);
    if (agreed(has_failed(group) || is_masked(group, awaited.peer))) return false;
    if (agreed(patience.ends(group, awaited.peer))) {
      lose(group, epoch, awaited);
      return false;
    }
    dev::pause();
  }
  return true;
}

}  // namespace nccl_ep

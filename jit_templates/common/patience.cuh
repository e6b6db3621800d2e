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
  bool has_shown = false, is_second = false;

  EP_DEVICE void begin(const GroupState& group, uint32_t awaited_peer) {
    *this = Patience();
    start = dev::clock_ns();
    peer = awaited_peer;
    sign = sign_of(group, peer);
  }

  // Whether it has run out.
  EP_DEVICE bool ends(const GroupState& group) {
    const uint64_t now = dev::clock_ns(), waited = now - start;
    if (!has_shown && waited > group.timeout_ns / 2) show(group, static_cast<uint32_t>(now));
    if (waited <= group.timeout_ns) return false;
    if (is_second || sign_of(group, peer) == sign) return true;
    start = now;
    is_second = true;
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
    has_shown = true;
#pragma unroll 1
    for (uint32_t rank = 0; rank < group.num_ranks; ++rank) {
      dev::st_relaxed<dev::Scope::system>(place(group, rank, group.rank), news);
    }
  }
};

// As wait_for(). False as well: the awaited rank is masked.
template <bool kWholeWarp = false, class Ready>
EP_DEVICE bool wait_patiently(const GroupState& group, uint32_t epoch, const Awaited& awaited, Ready ready) {
  const auto agreed = [](bool mine) { return kWholeWarp ? dev::any(mine) : mine; };
  Patience patience;
#pragma unroll 1
  for (uint32_t polls = 0; !ready(); ++polls) {
    if (polls < dev::kPollsBeforeClock) continue;
    if (polls == dev::kPollsBeforeClock || awaited.peer != patience.peer) patience.begin(group, awaited.peer);
    if (agreed(has_failed(group) || is_masked(group, awaited.peer))) return false;
    if (agreed(patience.ends(group))) {
      lose(group, epoch, awaited);
      return false;
    }
    dev::pause();
  }
  return true;
}

}  // namespace nccl_ep

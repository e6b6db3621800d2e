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

// Signs of life among the ranks of an LSA team, `num_ranks` from `first` on: words in their windows, which are addressed from
// rank `window_first` on.
struct TeamLife {
  static constexpr uint32_t kRenewals = 1;

  const GroupState& group;
  uint32_t first, num_ranks, window_first;

  EP_DEVICE TeamLife(const GroupState& of, uint32_t first_rank, uint32_t count, uint32_t first_of_window)
      : group(of), first(first_rank), num_ranks(count), window_first(first_of_window) {}
  EP_DEVICE explicit TeamLife(const GroupState& of) : TeamLife(of, 0, of.num_ranks, 0) {}

  EP_DEVICE uint32_t of(uint32_t peer) const { return dev::ld_relaxed<dev::Scope::system>(place(group.rank, peer)); }
  EP_DEVICE void show(uint64_t now) const {
#pragma unroll 1
    for (uint32_t rank = first; rank < first + num_ranks; ++rank) {
      dev::st_relaxed<dev::Scope::system>(place(rank, group.rank), static_cast<uint32_t>(now));
    }
  }

 private:
  EP_DEVICE uint32_t* place(uint32_t at_rank, uint32_t of_rank) const {
    return group.window.at<uint32_t>(at_rank - window_first, group.mask.life_at + sizeof(uint32_t) * (of_rank - first));
  }
};

// How long a wait has lasted. Who waits for a dead rank keeps others waiting in turn. So that they do not mistake it for dead,
// it shows a sign of life when half its patience is gone, and they have theirs once more: as often as Life says, and each time
// they show one as well if that is more than once.
struct Patience {
  uint64_t start = 0;
  uint32_t peer = 0;
  uint32_t sign = 0;  // the peer's, as the wait began
  uint32_t num_renewals = 0;
  bool has_shown = false;

  template <class Life>
  EP_DEVICE void begin(const Life& life, uint32_t awaited_peer) {
    *this = Patience();
    start = dev::clock_ns();
    peer = awaited_peer;
    sign = life.of(peer);
  }

  // Whether it has run out. What this rank's own warps do takes as long as it takes: no rank loses itself.
  template <class Life>
  EP_DEVICE bool ends(const Life& life, uint32_t awaited_peer) {
    const uint64_t now = dev::clock_ns(), waited = now - start;
    if (!has_shown && waited > life.group.timeout_ns / 2) {
      has_shown = true;
      life.show(now);
    }
    if (waited <= life.group.timeout_ns || awaited_peer == life.group.rank) return false;
    const uint32_t latest = life.of(awaited_peer);
    if (num_renewals == Life::kRenewals || latest == sign) return true;
    start = now;
    sign = latest;
    ++num_renewals;
    if (Life::kRenewals > 1) has_shown = false;
    return false;
  }
};

// As wait_for(). False as well: the awaited rank is masked. kPeerChanges: ready() may put another rank into `awaited`.
template <bool kWholeWarp = false, bool kPeerChanges = false, class Life, class Ready>
EP_DEVICE bool wait_patiently(const Life& life, uint32_t epoch, const Awaited& awaited, Ready ready) {
  const GroupState& group = life.group;
  const auto agreed = [](bool mine) { return kWholeWarp ? dev::any(mine) : mine; };
  Patience patience;
#pragma unroll 1
  for (uint32_t polls = 0; !ready(); ++polls) {
    if (polls < dev::kPollsBeforeClock) continue;
    const bool is_other = kPeerChanges && awaited.peer != patience.peer;
    if (polls == dev::kPollsBeforeClock || is_other) patience.begin(life, awaited.peer);
    if (agreed(has_failed(group) || is_masked(group, awaited.peer))) return false;
    if (agreed(patience.ends(life, awaited.peer))) {
      lose(group, epoch, awaited);
      return false;
    }
    dev::pause();
  }
  return true;
}

}  // namespace nccl_ep

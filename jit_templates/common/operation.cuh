// SPDX-License-Identifier: Apache-2.0
// What an operation of either algorithm is to a block.
#pragma once

#include "common/patience.cuh"

namespace nccl_ep {

// The i-th rank from the next one on: links carry more than when all ranks visit the others in the same order.
EP_DEVICE uint32_t peer_of(const GroupState& group, uint32_t i) { return (group.rank + 1 + i) % group.num_ranks; }

// Whom the kernels of a group deal with.
enum class Peers {
  team,         // one LSA team
  masked_team,  // the same without those that do not answer
  teams,        // one's own LSA team, and others through the network
  masked_teams,
};
EP_HOST_DEVICE constexpr bool has_masks(Peers peers) {
  return peers == Peers::masked_team || peers == Peers::masked_teams;
}
EP_HOST_DEVICE constexpr bool has_other_teams(Peers peers) {
  return peers == Peers::teams || peers == Peers::masked_teams;
}

// kMasks: it goes on without ranks that do not answer.
template <class Group, bool kMasks = false>
struct OperationOf {
  const Group& group;
  uint32_t epoch;

  // Whether a unit of this operation is there; `unit` is what is.
  EP_DEVICE bool has_arrived(const Unit* address, Unit& unit) const {
    unit = dev::ld_unit(address);
    return unit.epoch == epoch;
  }
  EP_DEVICE bool wait_for_unit(const Awaited& awaited, const Unit* address, Unit& unit) const {
    return wait_for(awaited, [&] { return has_arrived(address, unit); });
  }
  template <bool kWholeWarp = false, bool kPeerChanges = false, class Ready>
  EP_DEVICE bool wait_for(const Awaited& awaited, Ready ready) const {
    if constexpr (kMasks) return wait_patiently<kWholeWarp, kPeerChanges>(TeamLife(group), epoch, awaited, ready);
    return nccl_ep::wait_for<kWholeWarp>(group, epoch, awaited, ready);
  }
  // After a wait in vain: whether a rank is missing that the operation can do without.
  EP_DEVICE bool goes_on() const { return kMasks && !has_failed(group); }
  // The same of a warp, which calls it together. Without masks the compiler knows the answer.
  EP_DEVICE bool warp_goes_on() const {
    if constexpr (!kMasks) return false;
    return dev::all(!has_failed(group));
  }
};

// How a launch starts.
struct Start {
  uint32_t epoch;
  uint32_t ready;  // no: a peer is missing or an earlier operation has failed, do nothing
};

// Whether this is the first thread of the last block to come here, which then makes the operation count. All threads of
// all blocks call it, at the very end. What the blocks did is ordered before the next operation by the stream, so the
// counter may be relaxed, and a block need not wait for its other warps: they know the epoch since begin(). Unless the last
// block changes what others have used.
template <dev::Order kOrder = dev::Order::relaxed>
EP_DEVICE bool is_last_block(uint32_t* blocks_done) {
  if (dev::thread_idx() != 0) return false;
  const uint32_t before = dev::atomic_add<kOrder, dev::Scope::gpu>(blocks_done, 1u);
  if (before + 1 != dev::num_blocks()) return false;
  dev::st_relaxed<dev::Scope::gpu>(blocks_done, 0u);
  return true;
}

}  // namespace nccl_ep

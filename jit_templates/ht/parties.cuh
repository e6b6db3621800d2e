// SPDX-License-Identifier: Apache-2.0
// Who does what while rows move: the warps of a block, the blocks of a grid, and how the last one says that all is done.
#pragma once

#include "ht/mover.cuh"

namespace nccl_ep::ht {

// Some warps of every block, counted through the grid; neighbours sit on different SMs.
struct Crew {
  uint32_t first_warp, num_warps;  // of a block

  EP_DEVICE bool has_me() const { return dev::warp_idx() - first_warp < num_warps; }
  EP_DEVICE uint32_t worker() const { return (dev::warp_idx() - first_warp) * dev::num_blocks() + dev::block_idx(); }
  EP_DEVICE uint32_t num_workers() const { return num_warps * dev::num_blocks(); }
};

// Who pushes to whom: each block serves one peer, or a few in turn if there are fewer blocks. Peers are counted from the
// next rank on.
struct PushTeam {
  uint32_t first_peer, num_teams;
  uint32_t worker, num_workers;  // this warp among those that serve the same peer

  EP_DEVICE PushTeam(uint32_t num_ranks, uint32_t push_warps) {
    const uint32_t num_peers = num_ranks - 1, num_blocks = dev::num_blocks(), block = dev::block_idx();
    num_teams = num_peers < num_blocks ? num_peers : num_blocks;
    first_peer = num_peers;
    worker = num_workers = 0;
    if (num_peers == 0) return;
    first_peer = block % num_teams;
    const uint32_t team_blocks = (num_blocks - first_peer - 1) / num_teams + 1;
    worker = dev::warp_idx() * team_blocks + block / num_teams;
    num_workers = push_warps * team_blocks;
  }
};

// Says that this warp has pushed all that it has for `peer`; the last of the warps that serve it tells the peer. What the
// warp pushed has arrived. The whole warp calls it.
EP_DEVICE void finish_peer(const Operation& op, const HtMovePlan& plan, const PushTeam& team, uint32_t peer) {
  if (dev::lane_idx() != 0) return;
  const HtGroupState& group = op.group;
  const uint32_t before = dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(plan.pushed + peer, 1u);
  if (before + 1 != team.num_workers) return;
  dev::st_relaxed<dev::Scope::gpu>(plan.pushed + peer, 0u);
  dev::st_release<dev::Scope::system>(group.window.at<uint32_t>(peer, group.layout.done_at(group.rank)), op.epoch);
}

// Waits until all ranks have pushed all that they have for this one. One warp of the grid calls it.
EP_DEVICE bool await_all_done(const Operation& op) {
  const HtGroupState& group = op.group;
  bool ok = true;
  for (uint32_t peer = dev::lane_idx(); peer < group.num_ranks; peer += 32) {
    if (peer == group.rank) continue;
    const uint32_t* done = group.window.at<uint32_t>(group.rank, group.layout.done_at(peer));
    ok &= wait_for(group, op.epoch, {Wait::rows_done, peer, 0},
                   [&] { return static_cast<int32_t>(dev::ld_acquire<dev::Scope::system>(done) - op.epoch) >= 0; });
  }
  return dev::all(ok);
}

// Waits for the flag of a row that is on its way to this rank. The whole warp calls it.
EP_DEVICE bool await_row(const Operation& op, Awaited awaited, uint64_t slot) {
  const HtGroupState& group = op.group;
  const uint32_t* flag = group.window.at<uint32_t>(group.rank, group.layout.flag_at(slot));
  return wait_for<true>(group, op.epoch, awaited,
                        [&] { return dev::all(dev::ld_acquire<dev::Scope::system>(flag) == op.epoch); });
}

}  // namespace nccl_ep::ht

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

// Who pushes to whom: each warp serves one peer, or a few in turn if there are fewer warps; the warps of a block the same one
// as far as that goes. Peers are counted from the next rank on.
struct PushTeam {
  uint32_t first_peer, num_teams;
  uint32_t worker, num_workers;  // this warp among those that serve the same peer

  EP_DEVICE PushTeam(uint32_t num_ranks, uint32_t push_warps) {
    const uint32_t num_peers = num_ranks - 1, num_warps = dev::num_blocks() * push_warps;
    const uint32_t warp = dev::block_idx() * push_warps + dev::warp_idx();
    num_teams = num_peers < num_warps ? num_peers : num_warps;
    first_peer = num_peers;
    worker = num_workers = 0;
    if (num_peers == 0) return;
    first_peer = static_cast<uint32_t>(uint64_t{warp} * num_teams / num_warps);
    const uint32_t first_warp = static_cast<uint32_t>(div_up(uint64_t{first_peer} * num_warps, num_teams));
    const uint32_t end_warp = static_cast<uint32_t>(div_up(uint64_t{first_peer + 1} * num_warps, num_teams));
    worker = warp - first_warp;
    num_workers = end_warp - first_warp;
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

// Whether a row's flag is raised.
EP_DEVICE bool has_come(const Operation& op, uint64_t slot) {
  const HtGroupState& group = op.group;
  const uint32_t* flag = group.window.at<uint32_t>(group.rank, group.layout.flag_at(slot));
  return dev::ld_acquire<dev::Scope::system>(flag) == op.epoch;
}

// Waits for the flags of rows that are on their way to this rank: each lane for one, if `awaits`. The whole warp calls it.
EP_DEVICE bool await_rows(const Operation& op, const Awaited& mine, bool awaits, uint64_t slot) {
  Awaited awaited = mine;
  return wait_for<true>(op.group, op.epoch, awaited, [&] {
    const uint32_t missing = dev::ballot(awaits && !has_come(op, slot));
    if (missing == 0) return true;
    const uint32_t lane = dev::find_first(missing);  // a fault speaks of what is missing
    awaited.peer = dev::shfl(mine.peer, lane);
    awaited.token = dev::shfl(mine.token, lane);
    return false;
  });
}

// Where each rank's rows begin on this one, and behind the last where they end; in the block's shared memory.
struct RowRanges {
  uint32_t num_ranks;
  const uint32_t* begin;
  uint32_t most;  // rows of a rank

  EP_DEVICE uint32_t count(uint32_t source) const { return begin[source + 1] - begin[source]; }
};

// All threads of the block call it, and meet.
EP_DEVICE RowRanges load_row_ranges(const HtGroupState& group, const HtHandle& handle) {
  EP_SHARED(uint32_t, begin, [kHtMaxRanks + 1]);
  for (uint32_t i = dev::thread_idx(); i <= group.num_ranks; i += dev::num_threads()) begin[i] = *handle.source(i);
  dev::sync_block();
  RowRanges ranges{group.num_ranks, begin, 0};
  for (uint32_t source = 0; source < group.num_ranks; ++source) {
    if (ranges.count(source) > ranges.most) ranges.most = ranges.count(source);
  }
  return ranges;
}

// One of this rank's rows, and what a lane has looked up of it.
struct ReceivedRow {
  bool exists;
  uint32_t row, source;
  HtHome home;
  uint32_t first_hits[2];  // two, whether or not it has as many
  bool has_come;           // its flag is raised

  EP_DEVICE ReceivedRow from_lane(uint32_t lane) const {
    ReceivedRow it{true, dev::shfl(row, lane), dev::shfl(source, lane), {}, {}, false};
    it.home.token = dev::shfl(home.token, lane);
    const uint32_t packed =
        dev::shfl(uint32_t{has_come} << 16 | uint32_t{home.dest} << 8 | uint32_t{home.num_hits}, lane);
    it.home.num_hits = static_cast<uint8_t>(packed);
    it.home.dest = static_cast<uint8_t>(packed >> 8);
    it.has_come = packed >> 16;
    it.first_hits[0] = dev::shfl(first_hits[0], lane);
    it.first_hits[1] = dev::shfl(first_hits[1], lane);
    return it;
  }
};

EP_DEVICE ReceivedRow look_up_row(const HtHandle& handle, uint32_t row, uint32_t source) {
  ReceivedRow received{};
  received.exists = true;
  received.row = row;
  received.source = source;
  received.home = dev::ld(handle.home(row));
  received.first_hits[0] = dev::ld(handle.hit(row, 0));
  if (handle.layout.max_hits > 1) received.first_hits[1] = dev::ld(handle.hit(row, 1));
  return received;
}

// The rows of all sources in turn, as they arrive: the one with number i.
EP_DEVICE ReceivedRow row_in_turn(const HtHandle& handle, const RowRanges& ranges, uint64_t i) {
  const uint32_t source = static_cast<uint32_t>(i % ranges.num_ranks);
  const uint64_t number = i / ranges.num_ranks;
  if (number >= ranges.count(source)) return {};
  return look_up_row(handle, ranges.begin[source] + static_cast<uint32_t>(number), source);
}

// Calls visit(row) for the rows of a crew's warp. The lanes look up its next 32. False ends it.
template <class LookUp, class Visit>
EP_DEVICE void for_each_row(const Crew& crew, uint64_t num_items, LookUp look_up, Visit visit) {
  for (uint64_t first = crew.worker(); first < num_items; first += 32 * crew.num_workers()) {
    const uint64_t i = first + dev::lane_idx() * crew.num_workers();
    const ReceivedRow mine = i < num_items ? look_up(i) : ReceivedRow{};
    for (uint32_t left = dev::ballot(mine.exists); left; left &= left - 1) {
      const ReceivedRow row = mine.from_lane(dev::find_first(left));
      if (!visit(row)) return;
    }
  }
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// What every Low-Latency operation does around its data: epochs, the greeting that frees banks, bounded waits.
//
// No fence is needed anywhere. What crosses between ranks are units and lines, which carry their epoch and publish nothing
// else. A hello permits writes and publishes nothing that is read; the reads that it speaks of ended with an earlier
// kernel. Within a rank, operations begin one after the other in stream order, and one may be received while the next
// begins, which uses the other bank. So GroupProgress needs no more than is_last_block()'s counters.
#pragma once

#include "common/operation.cuh"
#include "common/token_count.cuh"
#include "shared/limits.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::ll {

// Work that is dealt to the blocks in turn, and within a block to whichever warp is free, from a counter in shared memory
// that the leader sets before begin(): to 0, or to the number of warps whose first items go by worker_idx().
struct BlockQueue {
  uint32_t* num_taken;

  // The next item of this block; there is no last one. The whole warp calls it.
  EP_DEVICE uint32_t next() const {
    uint32_t taken = 0;
    if (dev::lane_idx() == 0) taken = dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(num_taken, 1u);
    return dev::shfl(taken, 0) * dev::num_blocks() + dev::block_idx();
  }
};

// Some warps of a block, while they wait for each other only.
struct WarpTeam {
  uint32_t first_warp, num_warps;

  EP_DEVICE uint32_t thread_idx() const { return dev::thread_idx() - 32 * first_warp; }
  EP_DEVICE uint32_t num_threads() const { return 32 * num_warps; }
  EP_DEVICE void sync(uint32_t barrier) const { dev::bar_sync(barrier, num_threads()); }
};

// Named barriers of a block.
constexpr uint32_t kBeginBarrier = 1;      // where followers learn whether they may go on
constexpr uint32_t kRoutesBarrier = 2;     // of the warps that send routes
constexpr uint32_t kReceiversBarrier = 3;  // of the warps that make the table of arrivals
constexpr uint32_t kTableBarrier = 4;      // where the others wait for it

// This warp's place among all warps of the grid; neighbours sit on different SMs.
EP_DEVICE uint32_t worker_idx() { return dev::warp_idx() * dev::num_blocks() + dev::block_idx(); }
EP_DEVICE uint32_t num_workers() { return dev::num_warps() * dev::num_blocks(); }

// The ranks that units and lines reach: `size` neighbours in the world.
struct LsaTeam {
  uint32_t first, size;

  EP_DEVICE bool has(uint32_t rank) const { return rank - first < size; }
  // The i-th one from the next one on: links carry more than when all ranks visit the others in the same order.
  EP_DEVICE uint32_t peer(uint32_t rank, uint32_t i) const { return first + (rank - first + 1 + i) % size; }
};

template <Peers kPeers, class Args>
EP_DEVICE LsaTeam team_of(const Args& args) {
  if constexpr (has_other_teams(kPeers)) return {args.network.first_rank, args.group.layout.num_ranks};
  return {0, args.group.num_ranks};
}

// How an operation waits. With masks and other teams: remote_waits.cuh.
template <Peers kPeers>
struct Waiting : OperationOf<LlGroupState, has_masks(kPeers)> {
  template <class Args>
  EP_DEVICE Waiting(const Args& args, uint32_t op_epoch)
      : OperationOf<LlGroupState, has_masks(kPeers)>{args.group, op_epoch} {}
};

// One operation as a block sees it.
template <Peers kPeers>
struct Operation : Waiting<kPeers> {
  using Base = Waiting<kPeers>;
  using Base::group, Base::epoch;
  LsaTeam team;
  uint32_t bank;

  template <class Args>
  EP_DEVICE Operation(const Args& args, uint32_t op_epoch)
      : Base(args, op_epoch), team(team_of<kPeers>(args)), bank(op_epoch % LlLayout::kNumBanks) {}

  // Addresses in the window of a rank of the team.
  EP_DEVICE Unit* counts(uint32_t rank, uint32_t source, uint32_t unit) const {
    return at<Unit>(rank, group.layout.counts_at(bank, source - team.first, unit));
  }
  EP_DEVICE Unit* route(uint32_t rank, uint32_t source, uint32_t token, uint32_t hit) const {
    return at<Unit>(rank, group.layout.route_at(bank, source - team.first, token, hit));
  }
  EP_DEVICE Unit* row(uint32_t rank, uint32_t source, uint32_t token) const {
    return at<Unit>(rank, group.layout.row_at(bank, source - team.first, token));
  }
  EP_DEVICE Unit* row_of_route(uint32_t rank, uint32_t token, uint32_t k) const {
    return at<Unit>(rank, group.layout.row_of_route_at(bank, token, k));
  }
  EP_DEVICE uint32_t* hello(uint32_t rank, uint32_t source) const {
    return at<uint32_t>(rank, group.layout.hello_at(source - team.first));
  }

 private:
  template <class T>
  EP_DEVICE T* at(uint32_t rank, uint64_t offset) const {
    return group.window.template at<T>(rank - team.first, offset);
  }
};

// The ranks that take part, as this block knows them since it began: bits in its shared memory, where there are masks.
EP_DEVICE uint32_t* active_words() {
  EP_SHARED(uint32_t, words, [kMaxRanks / 32]);
  return words;
}

// Of the ranks base ... base + 31.
template <Peers kPeers>
EP_DEVICE uint32_t active_bits(uint32_t base) {
  if constexpr (!has_masks(kPeers)) return ~0u;
  return active_words()[base / 32];
}

template <Peers kPeers>
EP_DEVICE bool is_active(uint32_t rank) {
  return active_bits<kPeers>(rank / 32 * 32) >> rank % 32 & 1;
}
template <Peers kPeers>
EP_DEVICE bool is_active(const Operation<kPeers>&, uint32_t rank) {
  return is_active<kPeers>(rank);
}

// The leader calls it.
EP_DEVICE void note_active_ranks(const GroupState& group) {
#pragma unroll 1
  for (uint32_t base = 0; base < group.num_ranks; base += 32) {
    const uint32_t rank = base + dev::lane_idx();
    const bool active = rank == group.rank || (rank < group.num_ranks && !is_masked(group, rank));
    const uint32_t bits = dev::ballot(active);
    dev::sync_warp();  // the word may be about to be replaced
    if (dev::lane_idx() == 0) active_words()[base / 32] = bits;
  }
  dev::sync_warp();
}

// The epoch of this launch: a new operation's, or the one whose sending half ran before.
EP_DEVICE uint32_t operation_epoch(const LlGroupState& group, const LlRouting& routing, bool sends) {
  return sends ? dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1 : *routing.pending_epoch();
}

// Tells every rank of the team up to which operation this one has finished. One warp calls it.
template <Peers kPeers>
EP_DEVICE void announce(const Operation<kPeers>& op, uint32_t finished) {
  for (uint32_t i = dev::lane_idx(); i < op.team.size; i += 32) {
    uint32_t* hello = op.hello(op.team.first + i, op.group.rank);
    dev::st_relaxed<dev::Scope::system>(hello, finished);
  }
}

// The last operation that a rank of the team says it has finished.
template <Peers kPeers>
EP_DEVICE uint32_t finished_by(const Operation<kPeers>& op, uint32_t peer) {
  return dev::ld_relaxed<dev::Scope::system>(op.hello(op.group.rank, peer));
}

// Waits until the bank of every rank of the team that takes part may be written. One warp calls it, unless the operation
// before has found out. False: an operation has failed.
template <Peers kPeers>
EP_DEVICE bool await_peers(const Operation<kPeers>& op) {
  bool ok = true;
  for (uint32_t i = dev::lane_idx(); i < op.team.size; i += 32) {
    const uint32_t peer = op.team.first + i;
    if (!is_active(op, peer)) continue;
    ok &= op.wait_for({Wait::bank_free, peer, 0}, [&] {
      return static_cast<int32_t>(finished_by(op, peer) + LlLayout::kNumBanks - op.epoch) >= 0;
    });
  }
  if (has_masks(kPeers) && !dev::all(ok)) {
    note_active_ranks(op.group);
    return op.warp_goes_on();
  }
  return dev::all(ok);
}

// The ranks outside the team, where there are none.
template <Peers kOthers = Peers::team>
struct NoRemoteRanks {
  static constexpr Peers kPeers = kOthers;
  EP_DEVICE void announce(uint32_t) const {}
  EP_DEVICE bool await_peers(uint32_t) const { return true; }
  EP_DEVICE bool have_finished(uint32_t) const { return true; }
  EP_DEVICE void flush_for_the_lost() const {}
};

// The last warp of a block leads: it finds out, as an operation begins, whether it may go on. An address that every warp
// of the GPU reads would be slow to read.
EP_DEVICE bool leads() { return dev::warp_idx() == dev::num_warps() - 1; }
EP_DEVICE WarpTeam followers() { return {0, dev::num_warps() - 1}; }

// Up to where operations may write, as an earlier one has found out, which need not have ended yet. What comes through the
// network is read and written without tags: so who has been told may write where others have read.
template <Peers kPeers>
EP_DEVICE uint32_t banks_free(const GroupProgress* progress) {
  if constexpr (has_other_teams(kPeers)) return dev::ld_acquire<dev::Scope::gpu>(&progress->banks_free);
  return dev::ld_relaxed<dev::Scope::gpu>(&progress->banks_free);
}
template <Peers kPeers>
EP_DEVICE void set_banks_free(GroupProgress* progress, uint32_t epoch) {
  if constexpr (has_other_teams(kPeers)) return dev::st_release<dev::Scope::gpu>(&progress->banks_free, epoch);
  dev::st_relaxed<dev::Scope::gpu>(&progress->banks_free, epoch);
}

// Finds out, while this operation runs, whether the next one must wait: not if every rank that takes part has said that it
// has finished the one before, as it does when it begins this one, or the next if the one before was still to be received.
// The leader of the last block looks once.
template <Peers kPeers, class RemoteRanks>
EP_DEVICE void note_free_banks(const Operation<kPeers>& op, const RemoteRanks& remote) {
  if (!leads() || dev::block_idx() != dev::num_blocks() - 1) return;
  bool finished = remote.have_finished(op.epoch - 1);
  for (uint32_t i = dev::lane_idx(); i < op.team.size; i += 32) {
    const uint32_t peer = op.team.first + i;
    finished &= static_cast<int32_t>(finished_by(op, peer) + 1 - op.epoch) >= 0 || !is_active(op, peer);
  }
  finished = dev::all(finished);
  if constexpr (has_other_teams(kPeers)) dev::sync_warp();  // one lane tells what all have seen
  if (finished && dev::lane_idx() == 0) set_banks_free<kPeers>(op.group.progress, op.epoch + 1);
}

// Finds out what operation this is and, before sending, says hello and waits for the peers. Followers call meanwhile() and
// meet when the leader knows; the leader does not wait for them. All threads of all blocks call it.
template <class Args, class RemoteRanks, class Meanwhile>
EP_DEVICE Start begin(const Args& args, const RemoteRanks& remote, Meanwhile meanwhile) {
  EP_SHARED(Start, shared_start, [1]);
  if (!leads()) {
    meanwhile();
    dev::bar_sync(kBeginBarrier, dev::num_threads());
    return shared_start[0];
  }
  const bool sends = args.phases & kLlSend;
  const uint32_t free_until = banks_free<RemoteRanks::kPeers>(args.group.progress);
  const bool failed = has_failed(args.group);
  const uint32_t epoch = operation_epoch(args.group, args.routing, sends);
  if constexpr (has_masks(RemoteRanks::kPeers)) note_active_ranks(args.group);
  const Operation<RemoteRanks::kPeers> op(args, epoch);
  if (sends && dev::block_idx() == dev::num_blocks() - 1) {
    const uint32_t finished = op.epoch - 1 - args.num_pending;
    remote.announce(finished);
    announce(op, finished);
  }
  const bool may_write =
      !sends || dev::all(free_until == op.epoch) || (await_peers(op) && remote.await_peers(op.epoch));
  if (sends) remote.flush_for_the_lost();
  const Start start{op.epoch, may_write && !dev::any(failed)};
  if (dev::lane_idx() == 0) shared_start[0] = start;
  dev::sync_warp();  // what one lane of the leader got ready is for the others too
  dev::bar_arrive(kBeginBarrier, dev::num_threads());
  return start;
}

template <Peers kPeers>
EP_DEVICE void finish(const Operation<kPeers>& op, const LlRouting& routing, uint32_t phases) {
  GroupProgress* progress = op.group.progress;
  if (!is_last_block(&progress->blocks_done[op.bank])) return;
  if (phases & kLlSend) {
    dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, op.epoch);
    check_count(op.group, routing.tokens);
  }
  if (!(phases & kLlReceive)) *routing.pending_epoch() = op.epoch;
}

}  // namespace nccl_ep::ll

// SPDX-License-Identifier: Apache-2.0
// What every Low-Latency operation does around its data: epochs, the greeting that frees banks, bounded waits.
//
// No fence is needed anywhere. What crosses between ranks are units and lines, which carry their epoch and publish nothing
// else. A hello permits writes and publishes nothing that is read; the reads that it speaks of ended with an earlier
// kernel. Within a rank, operations follow each other in stream order, so LlProgress needs no more than finish()'s counter.
#pragma once

#include "device/device.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::ll {

constexpr uint32_t kMaxHits = 64;

// Work that is dealt to the blocks in turn, and within a block to whichever warp is free, from a counter in shared memory
// that is cleared before begin()'s barrier.
struct BlockQueue {
  uint32_t* num_taken;

  // The next item of this block, from 0 on; there is no last one. The whole warp calls it.
  EP_DEVICE uint32_t next() const {
    uint32_t taken = 0;
    if (dev::lane_idx() == 0) taken = dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(num_taken, 1u);
    return dev::shfl(taken, 0) * dev::num_blocks() + dev::block_idx();
  }
};

// This warp's place among all warps of the grid; neighbours sit on different SMs.
EP_DEVICE uint32_t worker_idx() { return dev::warp_idx() * dev::num_blocks() + dev::block_idx(); }
EP_DEVICE uint32_t num_workers() { return dev::num_warps() * dev::num_blocks(); }

// Leaves the first fault of this rank where the host sees it. `failed` makes every other wait give up.
EP_DEVICE void report(const LlGroupState& group, FaultRecord fault) {
  if (dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->failed, 1u) != 0) return;
  FaultRecord* record = group.fault;
  record->wait = fault.wait;
  record->rank = group.rank;
  record->peer = fault.peer;
  record->token = fault.token;
  record->epoch = fault.epoch;
  record->expert = fault.expert;
  dev::st_release<dev::Scope::system>(&record->code, fault.code);
}

// Whether an operation of this rank has failed. What it should have left for later ones may then be missing.
EP_DEVICE bool has_failed(const LlGroupState& group) {
  return dev::ld_relaxed<dev::Scope::gpu>(&group.progress->failed) != 0;
}

// What is awaited, in a fault's words.
struct Awaited {
  Wait what;
  uint32_t peer;
  uint32_t token;
};

// Polls until `ready()` holds, which may put into `awaited` what is missing. False: the wait timed out, or another one of
// this rank did. With kWholeWarp the lanes wait together: all call `ready`, which gives all the same answer.
template <bool kWholeWarp = false, class Ready>
EP_DEVICE bool wait_for(const LlGroupState& group, uint32_t epoch, const Awaited& awaited, Ready ready) {
  constexpr uint32_t kPollsBeforeClock = 64;  // reading the clock costs as much as several polls
  const auto agreed = [](bool mine) { return kWholeWarp ? dev::any(mine) : mine; };
  uint64_t start = 0;
#pragma unroll 1
  for (uint32_t polls = 0; !ready(); ++polls) {
    if (polls < kPollsBeforeClock) continue;
    if (polls == kPollsBeforeClock) start = dev::clock_ns();
    if (agreed(has_failed(group))) return false;
    if (agreed(dev::clock_ns() - start > group.timeout_ns)) {
      report(group, {FaultRecord::kTimeout, awaited.what, 0, awaited.peer, awaited.token, epoch, 0});
      return false;
    }
    dev::pause();
  }
  return true;
}

// One operation as a block sees it.
struct Operation {
  const LlGroupState& group;
  uint32_t epoch;
  uint32_t bank;

  EP_DEVICE Operation(const LlGroupState& group_state, uint32_t op_epoch)
      : group(group_state), epoch(op_epoch), bank(op_epoch % LlLayout::kNumBanks) {}

  // Addresses in a rank's window.
  EP_DEVICE Unit* counts(uint32_t rank, uint32_t source, uint32_t unit) const {
    return group.window.at<Unit>(rank, group.layout.counts_at(bank, source, unit));
  }
  EP_DEVICE Unit* route(uint32_t rank, uint32_t source, uint32_t token, uint32_t hit) const {
    return group.window.at<Unit>(rank, group.layout.route_at(bank, source, token, hit));
  }
  EP_DEVICE Unit* row(uint32_t rank, uint32_t source, uint32_t token) const {
    return group.window.at<Unit>(rank, group.layout.row_at(bank, source, token));
  }

  EP_DEVICE bool wait_for_unit(Awaited awaited, const Unit* address, Unit& unit) const {
    return wait_for(group, epoch, awaited, [&] {
      unit = dev::ld_unit(address);
      return unit.epoch == epoch;
    });
  }
};

// The epoch of this launch: a new operation's, or the one whose sending half ran before.
EP_DEVICE uint32_t operation_epoch(const LlGroupState& group, const LlRouting& routing, uint32_t phases) {
  if (phases & kLlSend) return dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1;
  return *routing.pending_epoch();
}

// Tells every rank which bank this one has finished reading. One warp calls it.
EP_DEVICE void announce(const LlGroupState& group) {
  const uint32_t consumed = dev::ld_relaxed<dev::Scope::gpu>(&group.progress->consumed);
  for (uint32_t peer = dev::lane_idx(); peer < group.num_ranks; peer += 32) {
    dev::st_relaxed<dev::Scope::system>(group.window.at<uint32_t>(peer, group.layout.hello_at(group.rank)), consumed);
  }
}

// Waits until every rank's bank may be written. One warp calls it; the block's barrier passes the knowledge on.
EP_DEVICE bool await_peers(const Operation& op) {
  const LlGroupState& group = op.group;
  bool ok = true;
  for (uint32_t peer = dev::lane_idx(); peer < group.num_ranks; peer += 32) {
    const uint32_t* hello = group.window.at<uint32_t>(group.rank, group.layout.hello_at(peer));
    ok &= wait_for(group, op.epoch, {Wait::bank_free, peer, 0}, [&] {
      const uint32_t consumed = dev::ld_relaxed<dev::Scope::system>(hello);
      return static_cast<int32_t>(consumed + LlLayout::kNumBanks - op.epoch) >= 0;
    });
  }
  return dev::all(ok);
}

// The last block to come here makes the operation count. All threads of all blocks call it, at the very end. What the
// blocks did is ordered before the next operation by the stream, so the counter may be relaxed, and a block need not
// wait for its other warps: they read the epoch before begin()'s barrier.
EP_DEVICE void finish(const Operation& op, const LlRouting& routing, uint32_t phases) {
  if (dev::thread_idx() != 0) return;
  LlProgress* progress = op.group.progress;
  const uint32_t before = dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(&progress->blocks_done, 1u);
  if (before + 1 != dev::num_blocks()) return;
  dev::st_relaxed<dev::Scope::gpu>(&progress->blocks_done, 0u);
  if (phases & kLlSend) dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, op.epoch);
  if (phases & kLlReceive) {
    dev::st_relaxed<dev::Scope::gpu>(&progress->consumed, op.epoch);
  } else {
    *routing.pending_epoch() = op.epoch;
  }
}

}  // namespace nccl_ep::ll

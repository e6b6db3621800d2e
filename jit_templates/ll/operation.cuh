// SPDX-License-Identifier: Apache-2.0
// What every Low-Latency operation does around its data: epochs, the greeting that frees banks, bounded waits.
//
// Release and acquire pairs:
//   hello      announce() releases at system scope: this rank's reads of earlier operations are over.
//              await_peers() acquires it before the first write into a peer's bank or output window.
//   row flags  see rows.cuh.
//   Units carry their own epoch and publish nothing else.
// Within a rank, operations follow each other in stream order, so LlProgress needs no more than finish()'s counter.
#pragma once

#include "device/device.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::ll {

// Leaves the first fault of this rank where the host sees it. `failed` makes every other wait give up.
EP_DEVICE void report(const LlGroupState& group, FaultRecord fault) {
  if (dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->failed, 1u) != 0) return;
  fault.rank = group.rank;
  FaultRecord* record = group.fault;
  record->wait = fault.wait;
  record->rank = fault.rank;
  record->peer = fault.peer;
  record->token = fault.token;
  record->epoch = fault.epoch;
  record->expert = fault.expert;
  dev::st_release<dev::Scope::system>(&record->code, fault.code);
}

// Polls until `ready()` holds. False: the wait timed out, or another one of this rank did.
template <class Ready>
EP_DEVICE bool wait_for(const LlGroupState& group, Wait what, uint32_t peer, uint32_t token, uint32_t epoch,
                        Ready ready) {
  constexpr int kSpinsBeforeClock = 64;  // reading the clock costs as much as several polls
  for (int i = 0; i < kSpinsBeforeClock; ++i) {
    if (ready()) return true;
  }
  const uint64_t start = dev::clock_ns();
  while (!ready()) {
    if (dev::ld_relaxed<dev::Scope::gpu>(&group.progress->failed) != 0) return false;
    if (dev::clock_ns() - start > group.timeout_ns) {
      report(group, {FaultRecord::kTimeout, what, 0, peer, token, epoch, 0});
      return false;
    }
    dev::pause();
  }
  return true;
}

EP_DEVICE bool wait_for_unit(const LlGroupState& group, Wait what, uint32_t peer, uint32_t token, uint32_t epoch,
                             const Unit* address, Unit& unit) {
  return wait_for(group, what, peer, token, epoch, [&] {
    unit = dev::ld_unit(address);
    return unit.epoch == epoch;
  });
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
  EP_DEVICE uint32_t* flag(uint32_t rank, uint32_t source, uint32_t token, uint32_t chunk) const {
    return group.window.at<uint32_t>(rank, group.layout.flag_at(bank, source, token, chunk));
  }
  EP_DEVICE unsigned char* row(uint32_t rank, uint32_t source, uint32_t token) const {
    return group.window.at<unsigned char>(rank, group.layout.row_at(bank, source, token));
  }
};

// The epoch of this launch: a new operation's, or the one whose sending half ran before.
EP_DEVICE uint32_t operation_epoch(const LlGroupState& group, const LlRouting& routing, uint32_t phases) {
  if (phases & kLlSend) return group.progress->epoch + 1;
  return *reinterpret_cast<const uint32_t*>(routing.handle_memory + routing.handle_layout.pending_epoch_at());
}

// Tells every rank that this one has started the operation, and which banks it has finished reading. Block 0 calls it.
EP_DEVICE void announce(const Operation& op) {
  const LlGroupState& group = op.group;
  const uint64_t word = uint64_t{op.epoch} << 32 | group.progress->consumed;
  for (uint32_t peer = dev::thread_idx(); peer < group.num_ranks; peer += dev::num_threads()) {
    dev::st_release<dev::Scope::system>(group.window.at<uint64_t>(peer, group.layout.hello_at(group.rank)), word);
  }
}

// Waits until every rank's bank may be written, and with `windows` its output window too. One warp calls it; the
// block's barrier passes the knowledge on.
EP_DEVICE bool await_peers(const Operation& op, bool windows) {
  const LlGroupState& group = op.group;
  bool ok = true;
  for (uint32_t peer = dev::lane_idx(); peer < group.num_ranks; peer += 32) {
    const uint64_t* hello = group.window.at<uint64_t>(group.rank, group.layout.hello_at(peer));
    ok &= wait_for(group, windows ? Wait::window_ready : Wait::bank_free, peer, 0, op.epoch, [&] {
      const uint64_t word = dev::ld_acquire<dev::Scope::system>(hello);
      const uint32_t started = static_cast<uint32_t>(word >> 32), consumed = static_cast<uint32_t>(word);
      const bool bank_free = static_cast<int32_t>(consumed + LlLayout::kNumBanks - op.epoch) >= 0;
      return bank_free && (!windows || static_cast<int32_t>(started - op.epoch) >= 0);
    });
  }
  return dev::all(ok);
}

// How every sending half starts. All threads of all blocks call it; false: a peer is missing, send nothing.
EP_DEVICE bool greet(const Operation& op, bool windows) {
  if (dev::block_idx() == 0) announce(op);
  EP_SHARED(uint32_t, peers_ok, [1]);
  if (dev::warp_idx() == 0) {
    const bool ok = await_peers(op, windows);
    if (dev::lane_idx() == 0) peers_ok[0] = ok;
  }
  dev::sync_block();
  return peers_ok[0] != 0;
}

// The last block to come here makes the operation count. All threads of all blocks call it, at the very end.
EP_DEVICE void finish(const Operation& op, const LlRouting& routing, uint32_t phases) {
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  LlProgress* progress = op.group.progress;
  const uint32_t before = dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(&progress->blocks_done, 1u);
  if (before + 1 != dev::num_blocks()) return;
  dev::st_relaxed<dev::Scope::gpu>(&progress->blocks_done, 0u);
  if (phases & kLlSend) progress->epoch = op.epoch;
  if (phases & kLlReceive) {
    progress->consumed = op.epoch;
  } else {
    *reinterpret_cast<uint32_t*>(routing.handle_memory + routing.handle_layout.pending_epoch_at()) = op.epoch;
  }
}

}  // namespace nccl_ep::ll

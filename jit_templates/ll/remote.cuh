// SPDX-License-Identifier: Apache-2.0
// What Low-Latency kernels do with the ranks outside their LSA team.
//
// Heads and rows are written into the outbox and put from there into the peer's inbox (ll_network.hpp says where). Signals
// alone say that they have arrived; nothing in an inbox is read before its signal has been seen.
//
//   head    one put for each peer and operation, and a weak signal that rides on it
//   rows    a put for each row, in the context that its token is dealt to. When the grid has put its last one, a strong
//           signal in every context, to every peer, whether or not there was a row
//   hello   a signal as an operation begins: up to where operations are finished here. So their inbox banks are free, and
//           what this rank has waited for in them has left the peers' outboxes
//
// A put reads what happens before it, so the threads that write an outbox meet before one of them puts. In a group with masks
// nothing is sent to masked ranks, and what signals say is made up for later (remote_waits.cuh).
#pragma once

#include "ll/remote_waits.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

template <Peers kOthers>
struct RemoteRanks {
  static constexpr Peers kPeers = kOthers;
  static constexpr uint32_t kContext = 0;  // of hellos and heads

  const LlGroupState& group;
  const LlNetwork& network;
  const uint32_t num_pending;  // operations, at most, that are finished later than this one begins

  template <class Args>
  EP_DEVICE explicit RemoteRanks(const Args& args)
      : group(args.group), network(args.network), num_pending(args.phases & kLlSend ? args.num_pending : 1) {}

  EP_DEVICE uint32_t size() const { return network.layout.num_ranks; }
  // By their number; the number of one; this rank's number there.
  EP_DEVICE uint32_t rank(uint32_t i) const { return i < network.first_rank ? i : i + team_size(); }
  EP_DEVICE uint32_t number_of(uint32_t rank) const { return rank < network.first_rank ? rank : rank - team_size(); }
  EP_DEVICE uint32_t own_number_at(uint32_t rank) const {
    return group.rank < rank ? group.rank : group.rank - team_size();
  }

  EP_DEVICE unsigned char* inbox(uint32_t bank, uint32_t i) const { return memory(network.layout.inbox_at(bank, i)); }
  EP_DEVICE unsigned char* outbox(uint32_t bank, uint32_t i) const { return memory(network.layout.outbox_at(bank, i)); }

  // As the functions of the same names for the team. One warp calls them.
  EP_DEVICE void announce(uint32_t finished) const {
    if constexpr (has_masks(kPeers)) {
      for (uint32_t i = dev::lane_idx(); i < size(); i += 32) {
        if (is_active<kPeers>(rank(i))) signals().tell(kContext, LlSignals::kHello, rank(i), finished + 1);
      }
    } else {
      uint32_t* told = &group.progress->told_remote;
      const uint32_t news = finished + 1 - dev::ld_relaxed<dev::Scope::gpu>(told);
      dev::sync_warp();  // all lanes have read it
      if (dev::lane_idx() == 0) dev::st_relaxed<dev::Scope::gpu>(told, finished + 1);
      for (uint32_t i = dev::lane_idx(); news > 0 && i < size(); i += 32) {
        gin(kContext).signal(rank(i), dev::weak(dev::signal(numbers().hello(group.rank)), news));
      }
    }
  }
  EP_DEVICE bool await_peers(uint32_t epoch) const {
    bool ok = true;
    for (uint32_t i = dev::lane_idx(); i < size(); i += 32) {
      const uint32_t peer = rank(i);
      if (!is_active<kPeers>(peer)) continue;
      const Awaited awaited{Wait::bank_free, peer, 0};
      const auto is_free = [&] { return has_finished(peer, epoch - LlLayout::kNumBanks); };
      if constexpr (has_masks(kPeers)) {
        ok &= wait_patiently(TeamsLife{group, network}, epoch, awaited, is_free);
      } else {
        ok &= nccl_ep::wait_for(group, epoch, awaited, is_free);
      }
    }
    if (has_masks(kPeers) && !dev::all(ok)) {
      note_active_ranks(group);
      return dev::all(!has_failed(group));
    }
    return dev::all(ok);
  }
  // Whether those that this lane looks at have finished an operation, or do not take part.
  EP_DEVICE bool have_finished(uint32_t epoch) const {
    bool finished = true;
    for (uint32_t i = dev::lane_idx(); i < size(); i += 32) {
      finished &= has_finished(rank(i), epoch) || !is_active<kPeers>(rank(i));
    }
    return finished;
  }
  // Nobody who is masked says that what was put there has left the outbox: before it is written again, the network must. What
  // it keeps for a rank that is gone is waited for once, and then for nobody: who is masked may get other rows than it should.
  EP_DEVICE void flush_for_the_lost() const {
    if constexpr (!has_masks(kPeers)) return;
    uint32_t num_lost = 0;
    for (uint32_t i = dev::lane_idx(); i < size(); i += 32) num_lost += !is_active<kPeers>(rank(i));
    num_lost = dev::sum_warp(num_lost);
    if (num_lost == 0) return;
    uint32_t* in_vain = &network.mask_progress->flushed_in_vain;
    if (dev::all(dev::ld_acquire<dev::Scope::gpu>(in_vain) == num_lost)) return;
    bool done = true;
    for (uint32_t c = dev::lane_idx(); c < network.comm.num_contexts; c += 32) {
      done &= gin(c).flush_within(group.timeout_ns / 4);
    }
    if (dev::all(done)) return;
    dev::sync_warp();  // one lane tells what all have seen
    if (dev::lane_idx() == 0) dev::st_release<dev::Scope::gpu>(in_vain, num_lost);
  }

  // Bounded waits for what others send, as Operation::wait_for().
  template <bool kWholeWarp = false, bool kPeerChanges = false, class Ready>
  EP_DEVICE bool wait_for(uint32_t epoch, const Awaited& awaited, Ready ready) const {
    if constexpr (has_masks(kPeers)) {
      return wait_patiently<kWholeWarp, kPeerChanges>(TeamsLife{group, network}, epoch, awaited, ready);
    } else {
      return wait_until<kWholeWarp>(group, epoch, ready, [&] { return or_who_is_behind(epoch, awaited); });
    }
  }

  // Puts the beginning of a peer's outbox. One thread calls it, after all that write it have met.
  EP_DEVICE void put_head(const Operation<kPeers>& op, uint32_t i, uint64_t bytes) const {
    const dev::SignalAction arrived = dev::weak(dev::signal(numbers().head(op.bank, group.rank)), news_of_head(op, i));
    if (bytes == 0) return gin(kContext).signal(rank(i), arrived);
    const uint64_t to = network.layout.inbox_at(op.bank, own_number_at(rank(i)));
    gin(kContext).put(rank(i), in_window(to), in_window(network.layout.outbox_at(op.bank, i)), bytes, arrived);
  }
  // Puts a token's row, or its rows, from a box of the outbox to a peer. One thread calls it, after all that write the row have met.
  EP_DEVICE void put_row(uint32_t bank, uint32_t peer, uint32_t token, uint32_t from_box, uint64_t bytes) const {
    const uint64_t row = network.layout.row_at(token);
    const uint64_t to = network.layout.inbox_at(bank, own_number_at(peer)) + row;
    gin(context_of(token)).put(peer, in_window(to), in_window(network.layout.outbox_at(bank, from_box) + row), bytes);
  }
  // This warp has put its last row. The last one of `num_warps` of the grid tells all peers.
  EP_DEVICE void end_rows(const Operation<kPeers>& op, uint32_t num_warps) const {
    dev::sync_warp();  // so that the lanes' puts are before the count
    uint32_t before = 0;
    uint32_t* ended = &group.progress->senders_done;
    if (dev::lane_idx() == 0) before = dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(ended, 1u);
    if (dev::shfl(before, 0) + 1 != num_warps) return;
    if (dev::lane_idx() == 0) dev::st_relaxed<dev::Scope::gpu>(ended, 0u);
    dev::sync_warp();  // and all of them before the signals
    for (uint32_t i = dev::lane_idx(); i < size() * network.comm.num_contexts; i += 32) {
      const uint32_t context = i / size(), peer = rank(i % size());
      if constexpr (has_masks(kPeers)) {
        // Not as this block knew it: who was masked for any block lacks that block's rows, and must not believe to have all.
        if (!is_masked(group, peer)) signals().tell_strongly(context, LlSignals::kRows, peer, op.epoch);
      } else {
        gin(context).signal(peer, dev::strong(dev::signal(numbers().rows(group.rank))));
      }
    }
  }

  // Whether this operation's head, or its rows in a token's context, have arrived from a rank. Who has seen it may read
  // them.
  EP_DEVICE bool has_head(uint32_t epoch, uint32_t source) const {
    static_assert(LlLayout::kNumBanks == 2, "every other operation uses a bank");
    const uint32_t count = signals().count(kContext, numbers().head(epoch % LlLayout::kNumBanks, source));
    if constexpr (has_masks(kPeers)) return has_reached(count, epoch);
    return has_reached(2 * count, epoch + epoch % 2);
  }
  EP_DEVICE bool has_rows(uint32_t epoch, uint32_t source, uint32_t token) const {
    return has_reached(signals().count(context_of(token), numbers().rows(source)), epoch);
  }

 private:
  // Who has not even started keeps others from sending as well: a fault names such a rank.
  EP_DEVICE Awaited or_who_is_behind(uint32_t epoch, const Awaited& missing) const {
#pragma unroll 1
    for (uint32_t i = 0; i < size(); ++i) {
      if (!has_finished(rank(i), epoch - 1 - num_pending)) return {missing.what, rank(i), 0};
    }
    return missing;
  }
  EP_DEVICE bool has_finished(uint32_t peer, uint32_t epoch) const {
    return has_reached(signals().count(kContext, numbers().hello(peer)), epoch + 1);
  }
  EP_DEVICE uint32_t news_of_head(const Operation<kPeers>& op, uint32_t i) const {
    if constexpr (!has_masks(kPeers)) return 1;
    const auto kind = static_cast<LlSignals::Kind>(LlSignals::kHead + op.bank);
    return signals().news(kContext, kind, rank(i), op.epoch);
  }
  EP_DEVICE uint32_t team_size() const { return group.layout.num_ranks; }
  EP_DEVICE Signals signals() const { return {group, network}; }
  EP_DEVICE LlSignals numbers() const { return signals().numbers(); }
  EP_DEVICE dev::Gin gin(uint32_t context) const { return signals().gin(context); }
  EP_DEVICE uint32_t context_of(uint32_t token) const { return token % network.comm.num_contexts; }
  EP_DEVICE dev::WindowAddress in_window(uint64_t offset) const { return {network.window, offset}; }
  EP_DEVICE unsigned char* memory(uint64_t offset) const {
    return group.window.at<unsigned char>(group.rank - network.first_rank, offset);
  }
  EP_DEVICE static bool has_reached(uint32_t count, uint32_t least) { return static_cast<int32_t>(count - least) >= 0; }
};

// What the handle remembers of the rows from remote ranks.
struct RemoteHandle {
  const LlRouting& routing;
  LlRemoteHandleLayout layout;

  EP_DEVICE RemoteHandle(const LlRouting& given, uint32_t num_remote_ranks)
      : routing(given), layout(LlRemoteHandleLayout::make(given.handle_layout, num_remote_ranks)) {}
  EP_DEVICE uint32_t* num_rows(uint32_t i) const { return routing.at<uint32_t>(layout.num_rows_at(i)); }
  EP_DEVICE uint32_t* token(uint32_t i, uint32_t row) const { return routing.at<uint32_t>(layout.token_at(i, row)); }
};

}  // namespace nccl_ep::ll

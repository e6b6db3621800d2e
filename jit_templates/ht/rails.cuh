// SPDX-License-Identifier: Apache-2.0
// What High-Throughput kernels do with their rail peers in the other LSA teams.
//
// Whatever crosses is written into the outbox and put from there into the peer's inbox (ht_network.hpp says where). A signal
// rides on each put and says that it has arrived; nothing in an inbox is read before it has been seen.
//
//   hello    a signal as each operation begins: the one before is finished here. So this rank has received all that was put
//            into its inbox, which is free, as the peer's outbox is
//   counts, lists, chunks of parcels
//            a put each, and a weak signal that brings the thing's word to the number of the operation; or several puts,
//            and behind them a strong one
//
// A put reads what happens before it, so the threads that write an outbox meet before one of them puts. Before they write
// they have seen the peer's hello.
//
// In a group with masks nothing is sent to masked rail peers, and nothing awaited from them; what signals say is made up for
// later. Nobody else has been sent anything from their outboxes, and they say hello again when masks have been cleaned, after
// which all has left that was put before.
#pragma once

#include "common/remote_waits.cuh"
#include "ht/operation.cuh"

namespace nccl_ep::ht {

template <>
struct Waiting<Peers::masked_teams> : PatientOperation<HtGroupState, HtNetwork> {
  using PatientOperation<HtGroupState, HtNetwork>::PatientOperation;
};

template <Peers kPeers>
struct Rails {
  static constexpr bool kExist = true;
  static constexpr uint32_t kContext = 0;  // of all but parcels

  const HtGroupState& group;
  const HtNetwork& network;

  // Other teams by their number among them; the number of one, and this team's there.
  EP_DEVICE uint32_t size() const { return network.layout.num_teams; }
  EP_DEVICE uint32_t own_team() const { return group.first_rank / group.layout.team_size; }
  EP_DEVICE uint32_t team(uint32_t i) const { return i < own_team() ? i : i + 1; }
  EP_DEVICE uint32_t number_of(uint32_t team) const { return team < own_team() ? team : team - 1; }
  EP_DEVICE uint32_t own_number_at(uint32_t team) const { return own_team() < team ? own_team() : own_team() - 1; }
  EP_DEVICE uint32_t peer_in(uint32_t team) const {
    return team * group.layout.team_size + (group.rank - group.first_rank);
  }
  EP_DEVICE uint32_t peer(uint32_t i) const { return peer_in(team(i)); }

  // Guests among the tokens that this rank hosts.
  EP_DEVICE uint32_t first_guest(uint32_t i) const { return (1 + i) * group.layout.max_tokens; }
  EP_DEVICE uint32_t team_of_guest(uint32_t hosted_token) const { return hosted_token / group.layout.max_tokens - 1; }

  // This rank's boxes.
  template <class T>
  EP_DEVICE T* in(uint32_t i, uint64_t offset) const {
    return group.window.at<T>(group.rank, network.layout.inbox_at(i) + offset);
  }
  template <class T>
  EP_DEVICE T* out(uint32_t i, uint64_t offset) const {
    return group.window.at<T>(group.rank, network.layout.outbox_at(i) + offset);
  }

  // One warp calls it.
  EP_DEVICE void announce(uint32_t epoch) const {
    for (uint32_t i = dev::lane_idx(); i < size(); i += 32) {
      if constexpr (!has_masks(kPeers)) {
        gin(kContext).signal(peer(i), dev::weak(dev::signal(signals().numbers().hello(group.rank))));
      } else if (!is_masked(group, peer(i))) {
        signals().tell(kContext, HtSignals::kHello, peer(i), epoch);
      }
    }
  }
  // Waits until a rail peer has started this operation, too: each thread for itself. Nobody waits for one that is masked.
  EP_DEVICE bool await_peer(const Operation<kPeers>& op, uint32_t i) const {
    if (has_masks(kPeers) && is_masked(group, peer(i))) return false;
    const dev::Signal hello = dev::signal(signals().numbers().hello(peer(i)));
    return op.wait_for({Wait::peer_start, peer(i), 0},
                       [&] { return has_reached(gin(kContext).read_signal(hello), op.epoch); });
  }
  // Waits for all of them. The whole warp calls it.
  EP_DEVICE bool await_peers(const Operation<kPeers>& op) const {
    bool ok = true;
    for (uint32_t i = dev::lane_idx(); i < size(); i += 32) ok &= await_peer(op, i);
    return dev::all(ok);
  }

  // Puts a part of an outbox that has a word. One thread calls it, after all that have written it have met.
  EP_DEVICE void put(const Operation<kPeers>& op, uint32_t i, uint32_t word, uint64_t offset, uint64_t bytes) const {
    const HtRemoteLayout& layout = network.layout;
    const uint32_t there = own_number_at(team(i));
    uint32_t* sent = group.window.at<uint32_t>(group.rank, layout.sent_at(i, word));
    const dev::Signal arrived = dev::signal(in_window(layout.word_at(there, word)));
    context_of(word).put(peer(i), in_window(layout.inbox_at(there) + offset), in_window(layout.outbox_at(i) + offset),
                         bytes, dev::weak(arrived, op.epoch - dev::ld(sent)));
    dev::st(sent, op.epoch);
  }
  // The same of something that leaves in several puts: put_part() for each, by threads that then meet, and one of them tells.
  EP_DEVICE void put_part(uint32_t i, uint32_t word, uint64_t offset, uint64_t bytes) const {
    const HtRemoteLayout& layout = network.layout;
    const uint64_t to = layout.inbox_at(own_number_at(team(i))) + offset;
    context_of(word).put(peer(i), in_window(to), in_window(layout.outbox_at(i) + offset), bytes);
  }
  EP_DEVICE void tell(const Operation<kPeers>& op, uint32_t i, uint32_t word) const {
    uint32_t* sent = group.window.at<uint32_t>(group.rank, network.layout.sent_at(i, word));
    const dev::Signal arrived = dev::signal(in_window(network.layout.word_at(own_number_at(team(i)), word)));
    context_of(word).signal(peer(i), dev::strong(arrived, op.epoch - dev::ld(sent)));
    dev::st(sent, op.epoch);
  }
  // Whether what has that word has arrived from a team. Who has seen it may read it.
  EP_DEVICE bool has(const Operation<kPeers>& op, uint32_t i, uint32_t word) const {
    return has_reached(gin(kContext).read_signal(dev::signal(in_window(network.layout.word_at(i, word)))), op.epoch);
  }
  // Waits for it: each thread for itself, or with kWholeWarp the lanes together.
  template <bool kWholeWarp = false>
  EP_DEVICE bool await(const Operation<kPeers>& op, Wait what, uint32_t i, uint32_t word) const {
    return op.template wait_for<kWholeWarp>({what, peer(i), 0}, [&] {
      const bool arrived = has(op, i, word);
      return kWholeWarp ? dev::all(arrived) : arrived;
    });
  }

 private:
  EP_DEVICE SignalsOf<HtGroupState, HtNetwork> signals() const { return {group, network}; }
  EP_DEVICE dev::Gin gin(uint32_t context) const { return signals().gin(context); }
  EP_DEVICE dev::Gin context_of(uint32_t word) const { return gin(word % network.comm.num_contexts); }
  EP_DEVICE dev::WindowAddress in_window(uint64_t offset) const { return {network.window, offset}; }
  // Counts roll over, as epochs do.
  EP_DEVICE static bool has_reached(uint64_t count, uint32_t least) {
    return static_cast<int32_t>(static_cast<uint32_t>(count) - least) >= 0;
  }
};

}  // namespace nccl_ep::ht

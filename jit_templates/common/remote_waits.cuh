// SPDX-License-Identifier: Apache-2.0
// Signals between LSA teams, and how ranks of a group with masks wait for those outside their team.
//
// With masks a signal is a register with one writer: what it is to say follows from the operation alone, and the writer, who
// knows what it has told the peer before, sends the difference. So nothing is owed to who was masked for some operations: the
// next signal makes up for them. Some of what has been sent is less than all, and never says too much.
#pragma once

#include "common/operation.cuh"
#include "device/gin.hpp"

namespace nccl_ep {

// Whoever is here in a network's terms: its signals are Network::Signals, of which there are some of each kind for every rank.
template <class Group, class Network>
struct SignalsOf {
  using Numbers = typename Network::Signals;
  using Kind = typename Numbers::Kind;

  const Group& group;
  const Network& network;

  EP_DEVICE dev::Gin gin(uint32_t context) const { return dev::Gin(network.comm, context); }
  EP_DEVICE Numbers numbers() const { return {group.num_ranks}; }
  // Counts roll over, as epochs do.
  EP_DEVICE uint32_t count(uint32_t context, uint32_t signal) const {
    return static_cast<uint32_t>(gin(context).read_signal(dev::signal(signal)));
  }

  // With masks: what a peer's signal lacks to say `value`; it has been told now. One thread at a time calls it for a peer.
  EP_DEVICE uint32_t news(uint32_t context, Kind kind, uint32_t peer, uint32_t value) const {
    uint32_t* told = network.told + (uint64_t{context} * Numbers::kNumKinds + kind) * group.num_ranks + peer;
    const uint32_t before = dev::ld(told);
    dev::st(told, value);
    return value - before;
  }
  EP_DEVICE void tell(uint32_t context, Kind kind, uint32_t peer, uint32_t value) const {
    const uint32_t added = news(context, kind, peer, value);
    if (added != 0) gin(context).signal(peer, dev::weak(dev::signal(numbers().of(kind, group.rank)), added));
  }
  // The same so that all that was put to the peer in the context before has arrived when it is heard.
  EP_DEVICE void tell_strongly(uint32_t context, Kind kind, uint32_t peer, uint32_t value) const {
    gin(context).signal(peer,
                        dev::strong(dev::signal(numbers().of(kind, group.rank)), news(context, kind, peer, value)));
  }
};

// Signs of life, in the team as there, to others as signals. Those go out once in a while, however many threads wait.
template <class Group, class Network>
struct TeamsLifeOf {
  static constexpr uint32_t kContext = 0;
  static constexpr uint32_t kRenewals = Network::kRenewals;

  const Group& group;
  const Network& network;

  EP_DEVICE bool is_in_team(uint32_t rank) const { return rank - network.first_rank < network.team_size; }
  EP_DEVICE uint32_t window_first() const { return Network::kByWorldRank ? 0 : network.first_rank; }

  EP_DEVICE uint32_t of(uint32_t peer) const {
    return is_in_team(peer) ? of_team().of(peer) : signals().count(kContext, signals().numbers().life(peer));
  }
  EP_DEVICE void show(uint64_t now) const {
    of_team().show(now);
    uint64_t* last_sign = &network.mask_progress->last_sign;
    const uint64_t last = dev::ld_relaxed<dev::Scope::gpu>(last_sign);
    if (last != 0 && now - last < group.timeout_ns / 4) return;
    if (dev::atomic_cas<dev::Order::relaxed, dev::Scope::gpu>(last_sign, last, now) != last) return;
#pragma unroll 1
    for (uint32_t rank = 0; rank < group.num_ranks; ++rank) {
      if (is_in_team(rank) || is_masked(group, rank)) continue;
      signals().gin(kContext).signal(rank, dev::weak(dev::signal(signals().numbers().life(group.rank))));
    }
  }

 private:
  EP_DEVICE SignalsOf<Group, Network> signals() const { return {group, network}; }
  EP_DEVICE TeamLife of_team() const { return {group, network.first_rank, network.team_size, window_first()}; }
};

// An operation that goes on without ranks that do not answer, whatever team they are in.
template <class Group, class Network>
struct PatientOperation : OperationOf<Group, true> {
  using Base = OperationOf<Group, true>;
  using Base::group, Base::epoch;
  const Network& network;

  template <class Args>
  EP_DEVICE PatientOperation(const Args& args, uint32_t op_epoch) : Base{args.group, op_epoch}, network(args.network) {}

  EP_DEVICE TeamsLifeOf<Group, Network> life() const { return {group, network}; }
  template <bool kWholeWarp = false, bool kPeerChanges = false, class Ready>
  EP_DEVICE bool wait_for(const Awaited& awaited, Ready ready) const {
    return wait_patiently<kWholeWarp, kPeerChanges>(life(), epoch, awaited, ready);
  }
  EP_DEVICE bool wait_for_unit(const Awaited& awaited, const Unit* address, Unit& unit) const {
    return wait_for(awaited, [&] { return this->has_arrived(address, unit); });
  }
};

}  // namespace nccl_ep

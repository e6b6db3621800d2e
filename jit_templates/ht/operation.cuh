// SPDX-License-Identifier: Apache-2.0
// What every High-Throughput operation does around its data: its number, the rendezvous, the end.
//
// A rank writes into another one's memory only when that one has started the same operation: its stream has then passed
// all that read what is about to be written, the caller's kernels on an output window included. So there is one bank.
#pragma once

#include "common/operation.cuh"
#include "shared/ht_args.hpp"

namespace nccl_ep::ht {

// The i-th rank of the team from the next one on: links carry more than when all ranks visit the others in the same order.
EP_DEVICE uint32_t team_peer(const HtGroupState& group, uint32_t i) {
  return group.first_rank + (group.rank - group.first_rank + 1 + i) % group.layout.team_size;
}

// How a launch starts, and whose turn it is among the operations that move rows.
struct HtStart : Start {
  uint32_t turn;
};

// How an operation waits. With masks and other teams: rails.cuh.
template <Peers kPeers>
struct Waiting : OperationOf<HtGroupState, has_masks(kPeers)> {
  template <class Args>
  EP_DEVICE Waiting(const Args& args, uint32_t op_epoch)
      : OperationOf<HtGroupState, has_masks(kPeers)>{args.group, op_epoch} {}

  EP_DEVICE TeamLife life() const { return TeamLife(this->group); }
};

// One operation as a block sees it.
template <Peers kPeers>
struct Operation : Waiting<kPeers> {
  static constexpr bool kMasks = has_masks(kPeers);
  using Base = Waiting<kPeers>;
  using Base::group, Base::epoch, Base::has_arrived;
  uint32_t turn;

  template <class Args>
  EP_DEVICE Operation(const Args& args, const HtStart& start) : Base(args, start.epoch), turn(start.turn) {}

  // Whom this rank deals with for the sake of another one: who is waited for, and may be lost. Of ranks in other teams that is
  // the one that hosts their tokens in this team.
  EP_DEVICE uint32_t deals_with(uint32_t rank) const {
    return kPeers == Peers::masked_teams ? group.first_rank + rank % group.layout.team_size : rank;
  }

  // Bounded waits, as in common/waiting.cuh, for what others send once they have started.
  template <bool kWholeWarp = false, class Ready>
  EP_DEVICE bool wait_for(const Awaited& awaited, Ready ready) const {
    if constexpr (kMasks) {
      if (awaited.peer == group.rank) return wait_for_own<kWholeWarp>(awaited, ready);
      return Base::template wait_for<kWholeWarp>(awaited, ready);
    } else {
      return wait_until<kWholeWarp>(group, epoch, ready, [&] { return or_who_is_behind(awaited); });
    }
  }
  // For what this rank's own warps do. Where a rank may stand still and come back, that takes as long as it takes.
  template <bool kWholeWarp = false, class Ready>
  EP_DEVICE bool wait_for_own(const Awaited& awaited, Ready ready) const {
    if constexpr (!kMasks) return nccl_ep::wait_for<kWholeWarp>(group, epoch, awaited, ready);
#pragma unroll 1
    for (uint32_t polls = 1; !ready(); ++polls) {
      if (polls % dev::kPollsBeforeClock != 0) continue;
      if (kWholeWarp ? dev::any(has_failed(group)) : has_failed(group)) return false;
      dev::pause();
    }
    return true;
  }
  EP_DEVICE bool wait_for_unit(const Awaited& awaited, const Unit* address, Unit& unit) const {
    return wait_for(awaited, [&] { return has_arrived(address, unit); });
  }
  // Waits until a rank of the team has started this operation, too. Nobody waits for one that is masked.
  EP_DEVICE bool await_peer(uint32_t peer) const {
    const auto has_started = [&] { return static_cast<int32_t>(last_of(peer) - epoch) >= 0; };
    if constexpr (kMasks) {
      if (peer == group.rank) return true;
      const bool is_gone = is_masked(group, peer), started = has_started();  // looked up at a time
      if (is_gone || started) return !is_gone;
    }
    return wait_for({Wait::peer_start, peer, 0}, has_started);
  }
  // What reaches() looks at. It can be on its way beside other things: nothing waits for it yet.
  struct Standing {
    uint32_t takes_part, started;
  };
  EP_DEVICE Standing standing_of(uint32_t peer) const {
    if constexpr (!kMasks) return {};
    return {dev::ld_relaxed<dev::Scope::gpu>(group.mask.active + peer),
            dev::ld_relaxed<dev::Scope::system>(hello(peer))};
  }
  // Whether this rank may write what a peer that has started is to read in this operation. In a group with masks the peer may
  // have gone on without it, and then has other things in these places: the peer's operation must be this one. Nothing is
  // learned of the peer but that, so no order is needed.
  EP_DEVICE bool reaches(uint32_t peer, const Standing& standing) const {
    if (!kMasks || peer == group.rank) return true;
    if (standing.takes_part == 0) return false;
    const int32_t ahead = static_cast<int32_t>(standing.started - epoch);
    if (ahead > 0) lose(group, epoch, {Wait::peer_start, peer, 0});
    return ahead == 0;
  }
  EP_DEVICE bool reaches(uint32_t peer) const { return reaches(peer, standing_of(peer)); }
  // The same for a warp, which calls it together.
  EP_DEVICE bool warp_reaches(uint32_t peer, const Standing& standing) const {
    if constexpr (!kMasks) return true;
    return dev::all(reaches(peer, standing));
  }

 private:
  // The last operation that a rank has started.
  EP_DEVICE uint32_t last_of(uint32_t peer) const { return dev::ld_acquire<dev::Scope::system>(hello(peer)); }
  EP_DEVICE const uint32_t* hello(uint32_t peer) const {
    return group.window.template at<uint32_t>(group.rank, group.layout.hello_at(peer));
  }
  // Who has not even started keeps others from sending as well: a fault names the rank that is furthest behind.
  EP_DEVICE Awaited or_who_is_behind(Awaited missing) const {
    int32_t most = 0;
#pragma unroll 1
    for (uint32_t peer = group.first_rank; group.is_in_team(peer); ++peer) {
      if (peer == group.rank) continue;
      const int32_t behind = static_cast<int32_t>(epoch - dev::ld_relaxed<dev::Scope::system>(hello(peer)));
      if (behind <= most) continue;
      most = behind;
      missing = {Wait::peer_start, peer, 0};
    }
    return missing;
  }
};

// The inclusive sum over the lanes up to this one.
EP_DEVICE uint32_t scan_warp(uint32_t value) {
#pragma unroll
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const uint32_t before = dev::shfl(value, (dev::lane_idx() - delta) % 32);
    if (dev::lane_idx() >= delta) value += before;
  }
  return value;
}

// Waits until all ranks of the team that take part have started this operation, too. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE bool await_peers(const Operation<kPeers>& op) {
  bool ok = true;
  for (uint32_t i = dev::lane_idx(); i < op.group.layout.team_size; i += 32)
    ok &= op.await_peer(team_peer(op.group, i));
  return dev::all(ok) || op.warp_goes_on();
}

// The rail peers in other teams, where there are none.
struct NoRails {
  static constexpr bool kExist = false;
  EP_DEVICE void announce(uint32_t) const {}
};

// Tells a rank of the team that this one has started an operation.
EP_DEVICE void say_hello(const HtGroupState& group, uint32_t rank, uint32_t epoch) {
  uint32_t* hello = group.window.at<uint32_t>(rank, group.layout.hello_at(group.rank));
  dev::st_release<dev::Scope::system>(hello, epoch);
}

// Tells those of the team that `greets` names, and the rail peers, that this rank has started an operation. One warp of the
// rank calls it. What is released to the system takes more than a microsecond, and more when other warps have begun to send.
template <class Rails, class Greets>
EP_DEVICE void greet(const HtGroupState& group, const Rails& rails, uint32_t epoch, Greets greets) {
  for (uint32_t i = dev::lane_idx(); i < group.layout.team_size; i += 32) {
    if (greets(group.first_rank + i)) say_hello(group, group.first_rank + i, epoch);
  }
  rails.announce(epoch);
}

// Finds out what operation this is, and calls say(epoch) in the first warp. All threads of the block call it, and know what it
// has found when they have met.
template <class Say>
EP_DEVICE const HtStart& find_start(const HtGroupState& group, Say say) {
  EP_SHARED(HtStart, start, [1]);
  if (dev::warp_idx() == 0) {
    const uint32_t epoch = dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1;
    const uint32_t turn = dev::ld_relaxed<dev::Scope::gpu>(&group.progress->turn);
    const bool failed = has_failed(group);
    if (dev::lane_idx() == 0) start[0] = {{epoch, !failed}, turn};
    say(epoch);
  }
  return start[0];
}

// Begins an operation that moves rows: its first block greets the others. All threads of all blocks call it, and meet.
template <class Rails>
EP_DEVICE HtStart begin(const HtGroupState& group, const Rails& rails) {
  const HtStart& start = find_start(group, [&](uint32_t epoch) {
    if (dev::block_idx() == 0) greet(group, rails, epoch, [](uint32_t) { return true; });
  });
  dev::sync_block();
  return start;
}

}  // namespace nccl_ep::ht

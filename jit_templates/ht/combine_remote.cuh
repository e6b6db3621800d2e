// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine of a group of several LSA teams: combine.cuh inside the team, and one sum for each token and team
// between teams.
//
// Parties: as in combine.cuh. Results go to the rank of the team that hosts the token, whose own token it is or a guest. The
// warps that add up take the guests first: their sums become parcels, and who adds the last one of a chunk puts it to the
// rail peer. There the sums of other teams are added to those of the team's ranks, behind them. Memory: parcels of the boxes,
// besides. Waits: for rail peers and for parcels, besides.
#pragma once

#include "ht/combine.cuh"
#include "ht/parcels.cuh"

namespace nccl_ep::ht {

// With kRoutes a parcel has the row of each of the token's hits in the team in place of their sum, and the token a home slot
// for each hit (combine_exact_remote.cuh).
template <Peers kOthers, bool kRoutes = false>
struct OtherSums {
  static constexpr Peers kPeers = kOthers;
  static constexpr bool kExist = true;

  const HtCombineArgs& args;
  Rails<kPeers> it;

  EP_DEVICE const Rails<kPeers>& rails() const { return it; }
  EP_DEVICE static bool is_in_team(const HtGroupState& group, uint32_t rank) { return group.is_in_team(rank); }
  EP_DEVICE static uint32_t host_of(const HtGroupState& group, uint32_t source) { return rank_of_flow(group, source); }
  // Of what comes from a token's i-th destination.
  EP_DEVICE static uint64_t home_slot(const HtGroupState& group, uint32_t token, uint32_t i, const HtDest& dest) {
    return group.layout.home_slot(token, kRoutes ? dest.hits.first : i);
  }

  // The flows for ranks of other teams, to those who host their tokens here. This rank does so last, if `with_own`.
  template <class NumRows, class Push>
  EP_DEVICE void for_each_flow(const Operation<kPeers>& op, bool with_own, NumRows num_rows, Push push) const {
    const uint32_t team_size = args.group.layout.team_size, num_hosts = team_size - (with_own ? 0 : 1);
    const auto flow_of = [&](uint32_t n) {
      return it.team(n / num_hosts) * team_size + (team_peer(args.group, n % num_hosts) - args.group.first_rank);
    };
    if (num_hosts > 0) ht::for_each_flow(op, args.move, it.size() * num_hosts, flow_of, num_rows, push);
  }

  // Waits for the sums of other teams that the lanes look at. With masks, adds to `lost` those that do not come. False:
  // something did not come, or the group has failed.
  EP_DEVICE bool await_sum(const Operation<kPeers>& op, const HtDest& dest, bool exists, uint32_t& lost) const {
    const uint32_t mine = dev::ballot(exists && !boxes().await(op, exists ? number_of(dest) : 0, dest.row));
    lost |= mine;
    return mine == 0 || op.warp_goes_on();
  }
  EP_DEVICE Addend sum_of(const HtDest& dest) const { return boxes().incoming(number_of(dest), dest.row); }

  // Numbers of guests go round the teams; the longest list of guests says how many there are.
  EP_DEVICE uint32_t num_guests() const {
    uint32_t most = 0;
    for (uint32_t i = 0; i < it.size(); ++i) {
      const uint32_t guests = args.handle.parcels(i)->guests;
      if (guests > most) most = guests;
    }
    return most * it.size();
  }

  // Adds up a guest's results in this team for its home. The whole warp calls it.
  template <bool kExpertMajor, DType kDType>
  EP_DEVICE bool sum_guest(const Operation<kPeers>& op, uint32_t number, Addend* addends) const {
    const auto sum = [&](uint32_t guest, uint32_t num_addends, unsigned char* parcel) {
      add_up<kDType>(addends, num_addends, Span{0, args.move.row_bytes}, parcel);
      return !args.topk_weights || collect_guest_gradients(op, guest, boxes().weights(parcel));
    };
    return send_guest(op, number, OwnResults<kExpertMajor>{args}, addends, sum);
  }

  // The gradients that another team has sent with its sum.
  template <class Put>
  EP_DEVICE bool receive_gradients(const Operation<kPeers>& op, const HtDest& dest, Put put) const {
    const uint32_t i = number_of(dest);
    if (!boxes().await(op, i, dest.row)) return false;
    const float* gradients = gradients_in(boxes().incoming(i, dest.row), dest.hits.count);
    for (uint32_t j = 0; j < dest.hits.count; ++j) put(j, dev::ld(gradients + j));
    return true;
  }

  EP_DEVICE void await_all(const Operation<kPeers>& op) const {
    for (uint32_t i = 0; i < it.size(); ++i) {
      if (!boxes().await_all(op, i, args.handle.parcels(i)->departing)) return;
    }
  }

 protected:
  // Makes the parcel with a number, if there is one: list(guest) waits for what it is made of, make(guest, parcel) writes it if
  // there is somebody to get it, and finish(i, chunk) counts it. False, of list and make as well: the operation has failed.
  template <class List, class Make, class Finish>
  EP_DEVICE bool make_parcel(const Operation<kPeers>& op, uint32_t number, List list, Make make, Finish finish) const {
    const uint32_t i = number % it.size(), parcel = number / it.size(), guest = it.first_guest(i) + parcel;
    if (parcel >= args.handle.parcels(i)->guests) return true;
    if (!list(guest)) return false;
    if (dev::all(it.await_peer(op, i))) {
      if (!make(guest, boxes().outgoing(i, parcel))) return false;
    } else if (!op.warp_goes_on()) {
      return false;
    }
    finish(i, boxes().chunk_of(parcel));
    return true;
  }
  // Has sum(guest, num_addends, parcel) made when the results have come that it is of, and puts it when the chunk is complete.
  template <class Own, class Sum>
  EP_DEVICE bool send_guest(const Operation<kPeers>& op, uint32_t number, const Own& own, Addend* addends,
                            Sum sum) const {
    uint32_t num_addends = 0;
    return make_parcel(
        op, number, [&](uint32_t guest) { return list_results(op, args, own, *this, guest, addends, num_addends); },
        [&](uint32_t guest, unsigned char* parcel) { return sum(guest, num_addends, parcel); },
        [&](uint32_t i, uint32_t chunk) {
          count_parcel(op, i, chunk, [&](uint32_t num_parcels) { boxes().put(op, i, chunk, num_parcels); });
        });
  }

  EP_DEVICE ParcelBoxes<kPeers> boxes() const { return {it, args.parcels}; }
  // The gradients in the parcel of a token that has so many hits in the team.
  EP_DEVICE const float* gradients_in(const unsigned char* parcel, uint32_t num_hits) const {
    if constexpr (!kRoutes) return boxes().weights(parcel);
    return reinterpret_cast<const float*>(parcel + uint64_t{num_hits} * args.move.row_bytes);
  }
  EP_DEVICE uint32_t number_of(const HtDest& dest) const {
    return it.number_of(dest.rank / args.group.layout.team_size);
  }

  // A lane for each rank of the team that has some.
  EP_DEVICE bool collect_guest_gradients(const Operation<kPeers>& op, uint32_t guest, float* gradients) const {
    bool ok = true;
    const uint32_t num_dests = *args.handle.num_dests(guest);
    for (uint32_t i = dev::lane_idx(); i < num_dests; i += 32) {
      const HtDest dest = dev::ld(args.handle.dest(guest, i));
      const auto put = [&](uint32_t j, float value) { dev::st(gradients + dest.hits.first + j, value); };
      ok = ok && receive_floats(op, {Wait::row_weights, dest.rank, guest}, home_slot(op.group, guest, i, dest),
                                dest.hits.count, put);
      if (ok || !op.goes_on()) continue;
      for (uint32_t j = 0; j < dest.hits.count; ++j) put(j, 0);  // who has them is lost
      ok = true;
    }
    return dev::all(ok);
  }

  // Counts a parcel, also one that is not written. In the warp that completes a chunk which is to leave, one lane calls
  // leave(num_parcels), as many as all chunks have. The whole warp calls it.
  template <class Leave>
  EP_DEVICE void count_parcel(const Operation<kPeers>& op, uint32_t i, uint32_t chunk, Leave leave) const {
    dev::sync_warp();  // all of the parcel is written
    if (dev::lane_idx() != 0) return;
    const uint32_t num_parcels = args.handle.parcels(i)->guests;
    uint32_t* num_ready = args.num_ready + i * it.network.layout.num_chunks() + chunk;
    const uint32_t before = dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(num_ready, 1u);
    if (before + 1 != boxes().size_of_chunk(chunk, num_parcels)) return;
    dev::st_relaxed<dev::Scope::gpu>(num_ready, 0u);
    if (has_masks(kPeers) && is_masked(op.group, it.peer(i))) return;  // not all parcels need be written
    leave(num_parcels);
  }
};

template <bool kExpertMajor, DType kDType, Peers kPeers = Peers::teams>
EP_DEVICE void combine_remote(const HtCombineArgs& args) {
  combine_with<kExpertMajor, kDType>(args, OtherSums<kPeers>{args, {args.group, args.network}});
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch of a group of several LSA teams: dispatch.cuh inside the team, and parcels between teams.
//
// Parties: as in dispatch.cuh. The warps that receive, before they do, pack the tokens that leave the team into parcels, once
// for each team that they go to, and put these to the rail peers. The warps that push go on with the guests' rows, chunk by chunk as
// these arrive, and send their weights along. Memory: parcels of the boxes, besides. Waits: for rail peers and for parcels,
// besides.
#pragma once

#include "ht/dispatch.cuh"
#include "ht/parcels.cuh"

namespace nccl_ep::ht {

// Guests' rows, as they are pushed. In a group with masks, those of one that is lost are said to have come, whatever lies in
// their places, with weights of 0: the others in the team wait for this rank alone.
template <Peers kPeers>
struct GuestRows {
  const Operation<kPeers>& op;
  const HtDispatchArgs& args;
  const ParcelBoxes<kPeers>& boxes;
  bool has_flags;

  EP_DEVICE ScaledRow<const unsigned char> at(uint32_t guest) const {
    const uint32_t i = boxes.rails.team_of_guest(guest);
    const unsigned char* parcel = boxes.incoming(i, guest - boxes.rails.first_guest(i));
    return {parcel, parcel + args.move.row_bytes};
  }
  // Waits for the rows that the lanes have, and sends their weights to the rank that they go to. What does not come is not to be
  // pushed.
  EP_DEVICE bool await(HtSend& send, uint64_t index, uint32_t peer, uint32_t row, bool exists) const {
    bool ok = true;
    if (exists && send.slot != HtHandleLayout::kNoSlot) {
      const uint32_t i = boxes.rails.team_of_guest(send.token);
      const bool has_come = boxes.await(op, i, send.token - boxes.rails.first_guest(i));
      ok = has_come || op.goes_on();
      if (ok && args.topk_weights) {
        const HtHits hits = *args.handle.guest_hits(index);
        const float* weights = boxes.weights(at(send.token).row) + hits.first;
        send_floats(op, peer, row, hits.count, [&](uint32_t j) { return has_come ? dev::ld(weights + j) : 0.0f; });
      }
      if (ok && !has_come) {
        send.slot = HtHandleLayout::kNoSlot;
        if (has_flags) dev::st_relaxed<dev::Scope::system>(flag_of(args.group, peer, row), op.epoch);
      }
    }
    ok = dev::all(ok);
    dev::sync_warp();          // one lane pushes what any of them has seen come
    dev::fence_proxy_async();  // bulk copies will read what the network has written
    return ok;
  }
};

template <Peers kOthers>
struct Guests {
  static constexpr Peers kPeers = kOthers;
  const HtDispatchArgs& args;
  Rails<kPeers> it;

  EP_DEVICE const Rails<kPeers>& rails() const { return it; }

  template <class RowMover>
  EP_DEVICE void push_rows(const Operation<kPeers>& op, RowMover& mover) const {
    const uint32_t team_size = args.group.layout.team_size;
    const ParcelBoxes<kPeers> boxes{it, args.parcels};
    const GuestRows<kPeers> rows{op, args, boxes, mover.has_flags};
    const auto flow_of = [&](uint32_t n) {
      return it.team(n / team_size) * team_size + (team_peer(args.group, n) - args.group.first_rank);
    };
    const auto num_rows = [&](uint32_t flow) { return args.handle.outgoing(flow)->num_rows; };
    for_each_flow(op, args.move, it.size() * team_size, flow_of, num_rows,
                  [&](uint32_t flow) { push_flow(op, args, rows, flow, mover); });
  }

  // A warp for each chunk; neighbours have different teams. The whole warp calls it.
  template <class Tokens>
  EP_DEVICE void send_parcels(const Operation<kPeers>& op, const Tokens& tokens, const Crew& crew) const {
    const ParcelBoxes<kPeers> boxes{it, args.parcels};
    uint32_t most = 0;
    for (uint32_t i = 0; i < it.size(); ++i) {
      const uint32_t num_parcels = args.handle.parcels(i)->departing;
      if (num_parcels > most) most = num_parcels;
    }
    const uint64_t num_items = it.size() * div_up(most, boxes.chunk_parcels());
    for (uint64_t n = crew.worker(); n < num_items; n += crew.num_workers()) {
      const uint32_t i = static_cast<uint32_t>((n + it.own_team()) % it.size());
      if (!send_chunk(op, tokens, boxes, i, static_cast<uint32_t>(n / it.size()))) return;
    }
  }

  EP_DEVICE void await_all(const Operation<kPeers>& op) const {
    const ParcelBoxes<kPeers> boxes{it, args.parcels};
    for (uint32_t i = 0; i < it.size(); ++i) {
      if (!boxes.await_all(op, i, args.handle.parcels(i)->guests)) return;
    }
  }

 private:
  template <class Tokens>
  EP_DEVICE bool send_chunk(const Operation<kPeers>& op, const Tokens& tokens, const ParcelBoxes<kPeers>& boxes,
                            uint32_t i, uint32_t chunk) const {
    const uint32_t num_parcels = args.handle.parcels(i)->departing, first = chunk * boxes.chunk_parcels();
    if (first >= num_parcels) return true;
    if (!dev::all(it.await_peer(op, i))) return op.warp_goes_on();
    const uint32_t end = first + boxes.size_of_chunk(chunk, num_parcels);
    for (uint32_t parcel = first; parcel < end; ++parcel) {
      if (!pack(tokens, dev::ld(args.handle.departure(i, parcel)), boxes, boxes.outgoing(i, parcel))) return false;
    }
    dev::sync_warp();  // all of the chunk is written
    if (dev::lane_idx() == 0) boxes.put(op, i, chunk, num_parcels);
    return true;
  }

  template <class Tokens>
  EP_DEVICE bool pack(const Tokens& tokens, const HtDeparture& it, const ParcelBoxes<kPeers>& boxes,
                      unsigned char* parcel) const {
    const bool ok = bring_token(args, tokens, it.token, 1, [&](uint32_t) {
      return ScaledRow<unsigned char>{parcel, parcel + args.move.row_bytes};
    });
    if (!ok || !args.topk_weights) return ok;
    for (uint32_t j = dev::lane_idx(); j < it.hits.count; j += 32) {
      dev::st(boxes.weights(parcel) + j, weight_of(args, it.token, it.hits.first + j));
    }
    return true;
  }
};

template <bool kExpertMajor, bool kHasScales = false, Peers kPeers = Peers::teams>
EP_DEVICE void dispatch_remote(const HtDispatchArgs& args) {
  dispatch_with<kExpertMajor, kHasScales>(args, Guests<kPeers>{args, {args.group, args.network}});
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch: every token's row once to each rank that has one of its experts, in one launch.
//
// Parties: of some blocks some warps push rows, and unless rows go straight to their place one raises flags; the other
// blocks send weights, receive them, and bring this rank's own rows and those that have arrived to their final places. The
// update has told everybody where rows lie. A row goes straight into the receiver's output if that is a window,
// expert-major to its first slot; else by way of the receiver's window. If the recipe has scales (kHasScales), they go the
// same way beside the rows, or apart (scales_apart.cuh). If rows are to be quantized, all warps that neither push nor raise flags do that first, token by
// token, and those that push wait for each. Waits: for peers to start, for rows and weights to arrive, for peers to be done.
#pragma once

#include "ht/deliver.cuh"
#include "ht/scales_apart.cuh"

namespace nccl_ep::ht {

// Pushes some rows of a flow, which lie where `from` says when they have come. The lanes look them up.
template <class From, class RowMover, Peers kPeers>
EP_DEVICE bool push_ticket(const Operation<kPeers>& op, const HtDispatchArgs& args, const From& from, uint32_t flow,
                           const HtOutgoing& outgoing, uint32_t first, uint32_t end, RowMover& mover) {
  const Destination to = destination(args, flow);
  const uint32_t peer = rank_of_flow(args.group, flow), mine = first + dev::lane_idx();
  const uint64_t index = uint64_t{outgoing.first} + mine;
  const auto standing = op.standing_of(peer);
  HtSend send = mine < end ? dev::ld(args.handle.send(index)) : HtSend{};
  if (!op.warp_reaches(peer, standing) || !from.await(send, index, peer, outgoing.row + mine, mine < end)) return false;
  for (uint32_t i = 0; first + i < end; ++i) {
    const uint32_t token = dev::shfl(send.token, i), slot = dev::shfl(send.slot, i);
    const uint32_t row = outgoing.row + first + i;
    if (!mover.takes_part() || slot == HtHandleLayout::kNoSlot) continue;
    const uint32_t place = to.direct ? slot : row;
    uint32_t* flag = flag_of(args.group, peer, row);
    if constexpr (RowMover::kHasScales) {
      mover.move(from.at(token), {to.rows.at(place), to.scales.at(place)}, flag);
    } else {
      mover.move(from.at(token).row, to.rows.at(place), flag);
    }
  }
  return true;
}

// Pushes rows of a flow until others have taken all that are left. The whole warp calls it.
template <class From, class RowMover, Peers kPeers>
EP_DEVICE void push_flow(const Operation<kPeers>& op, const HtDispatchArgs& args, const From& from, uint32_t flow,
                         RowMover& mover) {
  const HtOutgoing outgoing = *args.handle.outgoing(flow);
  uint32_t num_mine = 0;
  bool ok = true;
  for_each_ticket(op, args.move, flow, outgoing.num_rows, [&](uint32_t first, uint32_t end) {
    ok = ok && push_ticket(op, args, from, flow, outgoing, first, end, mover);
    num_mine += end - first;
  });
  if (!mover.takes_part() || num_mine == 0) return;
  mover.drain();
  if (ok && dev::lane_idx() == 0) {
    add_arrived(op, args.move, flow, num_mine, num_arrivals<RowMover::kHasScales>(args.scales, outgoing.num_rows));
  }
}

template <class Tokens, class RowMover, Peers kPeers>
EP_DEVICE void push_own_rows(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                             RowMover& mover) {
  const auto num_rows = [&](uint32_t flow) { return args.handle.outgoing(flow)->num_rows; };
  for_each_own_flow(op, args.move, pushes_own(args.move), num_rows,
                    [&](uint32_t flow) { push_flow(op, args, tokens, flow, mover); });
}

// Nobody pushes where nothing goes.
template <Peers kPeers>
EP_DEVICE void finish_idle_flows(const Operation<kPeers>& op, const HtDispatchArgs& args) {
  for (uint32_t flow = dev::lane_idx(); flow < op.group.num_ranks; flow += 32) {
    if (flow != op.group.rank && args.handle.outgoing(flow)->num_rows == 0) tell_done(op, flow);
  }
}

// The weight of one of a token's hits. An expert that the row repeats gets the sum.
EP_DEVICE float weight_of(const HtDispatchArgs& args, uint32_t token, uint32_t hit) {
  const float* given = args.topk_weights + uint64_t{token} * args.num_topk;
  const uint8_t* places = args.handle.place(token, 0);
  float weight = 0;
  bool is_first = true;
  for (uint32_t k = 0; k < args.num_topk; ++k) {
    if (places[k] != hit) continue;
    weight = is_first ? dev::ld_nc(given + k) : dev::add(weight, dev::ld_nc(given + k));
    is_first = false;
  }
  return weight;
}

// Sends the weights of this rank's tokens to the ranks of the team that their rows go to: a lane for each token.
template <Peers kPeers>
EP_DEVICE void send_weights(const Operation<kPeers>& op, const HtDispatchArgs& args, const Crew& crew) {
  const uint32_t num_tokens = args.handle.totals()->num_tokens;
  for (uint32_t token = crew.thread(); token < num_tokens; token += crew.num_threads()) {
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      if (!op.group.is_in_team(dest.rank)) break;
      if (!op.reaches(dest.rank)) continue;
      send_floats(op, dest.rank, dest.row, dest.hits.count,
                  [&](uint32_t j) { return weight_of(args, token, dest.hits.first + j); });
    }
  }
}

// Guests and what leaves the team, where there is but one (dispatch_remote.cuh has those that there are).
template <Peers kOthers = Peers::team>
struct NoGuests {
  static constexpr Peers kPeers = kOthers;
  EP_DEVICE static NoRails rails() { return {}; }
  template <class RowMover>
  EP_DEVICE static void push_rows(const Operation<kPeers>&, RowMover&) {}
  template <class Tokens>
  EP_DEVICE static void send_parcels(const Operation<kPeers>&, const Tokens&, const Crew&) {}
  EP_DEVICE static void await_all(const Operation<kPeers>&) {}
};

template <class Tokens, class Guests, class RowMover, Peers kPeers>
EP_DEVICE void push_all(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                        const Guests& guests, RowMover mover) {
  if (mover.takes_part()) mover.open();
  push_own_rows(op, args, tokens, mover);
  guests.push_rows(op, mover);
  if (mover.takes_part()) mover.close();
}

// Sends the scales of this rank's tokens, when they go apart.
template <class Tokens, Peers kPeers>
EP_DEVICE void send_scales(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                           const Crew& crew) {
  if (args.scales.go != ScalesGo::apart) return;
  const uint32_t num_flows = args.group.layout.team_size - (pushes_own(args.move) ? 0 : 1);
  const auto scales_to = [&](uint32_t flow) { return destination(args, flow).scales; };
  send_scales_apart(op, args, tokens, crew, num_flows, scales_to);
}

template <bool kExpertMajor, class Tokens, class Guests, Peers kPeers>
EP_DEVICE void receive_all(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                           const Guests& guests, const Crew& crew, const RowRanges& ranges) {
  guests.send_parcels(op, tokens, crew);
  receive_rows<kExpertMajor>(op, args, tokens, crew, ranges);
  if (crew.worker() != 0) return;
  finish_idle_flows(op, args);
  await_all_done(op);
  guests.await_all(op);
}

// What a warp does, by its party.
template <bool kExpertMajor, class Tokens, class Guests, Peers kPeers>
EP_DEVICE void take_part(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                         const Guests& guests, const RowRanges& ranges, FlagQueue* queues, unsigned char* shared) {
  const bool flags = has_flags<kExpertMajor>(args);
  const Crews crews(args.move, flags);
  if (crews.pushers.has_me()) {
    unsigned char* stages = shared + dev::warp_idx() * args.move.mover_bytes();
    push_all(op, args, tokens, guests, tokens.mover(flags, queues[dev::warp_idx()], stages));
  } else if (crews.raisers.has_me()) {
    raise_flags(op, queues, args.move.push_warps);
  } else {
    const bool receives = crews.receivers.has_me();
    if (receives && kExpertMajor) fill_padding<Tokens::kHasScales>(args, crews.receivers);
    if constexpr (has_masks(Guests::kPeers) && !kExpertMajor) {
      if (receives && args.topk_weights) clear_unknown_rows(args, crews.receivers);
    }
    if (receives && args.topk_weights && await_peers(op)) send_weights(op, args, crews.receivers);
    if constexpr (Tokens::kHasScales) tokens.quantize();
    if constexpr (Tokens::kHasScales && !kExpertMajor) {
      if (receives) send_scales(op, args, tokens, crews.receivers);
    }
    if (receives) receive_all<kExpertMajor>(op, args, tokens, guests, crews.receivers, ranges);
  }
}

template <bool kExpertMajor, bool kHasScales, class Guests>
EP_DEVICE void dispatch_with(const HtDispatchArgs& args, const Guests& guests) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const RowRanges ranges = load_row_ranges(args.group, args.handle);
  const HtStart start = begin(args.group, guests.rails());
  const Operation<Guests::kPeers> op(args, start);
  if (start.ready) {
    if constexpr (kHasScales) {
      const ScaledTokens<Guests::kPeers> tokens{op, args, QuantizedTokens(args.group, ranges)};
      take_part<kExpertMajor>(op, args, tokens, guests, ranges, queues, shared);
    } else {
      take_part<kExpertMajor>(op, args, GivenTokens{args}, guests, ranges, queues, shared);
    }
  }
  finish_pushing(op, args.move);
}

template <bool kExpertMajor, bool kHasScales = false, Peers kPeers = Peers::team>
EP_DEVICE void dispatch(const HtDispatchArgs& args) {
  dispatch_with<kExpertMajor, kHasScales>(args, NoGuests<kPeers>());
}

}  // namespace nccl_ep::ht

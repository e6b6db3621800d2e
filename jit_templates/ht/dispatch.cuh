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

#include "device/numeric.hpp"
#include "ht/parties.cuh"
#include "ht/quantize.cuh"
#include "ht/scaled_mover.cuh"
#include "ht/scales_apart.cuh"
#include "ht/tickets.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

// Whether rows from `source` go straight into the output of a rank.
EP_DEVICE bool is_direct(const HtDispatchArgs& args, uint32_t source, uint32_t rank) {
  return args.out_window.base != 0 || source == rank;
}

// Where a flow's rows are pushed to with their scales, and whether that is the outputs.
struct Destination {
  Rows rows, scales;
  bool direct;
};

// On their way in a rank's window, scales lie behind their row.
EP_DEVICE Rows window_scales(const HtDispatchArgs& args, uint32_t rank) {
  const Rows rows = window_rows(args.group, rank);
  return {rows.base + args.move.row_bytes, rows.stride};
}

EP_DEVICE Destination destination(const HtDispatchArgs& args, uint32_t flow) {
  const uint32_t row_bytes = args.move.row_bytes, scale_bytes = args.scales.row_bytes;
  if (flow == args.group.rank)
    return {rows_of(args.out_tokens, row_bytes), rows_of(args.scales.out, scale_bytes), true};
  const uint32_t peer = rank_of_flow(args.group, flow);
  if (args.out_window.base == 0) return {window_rows(args.group, peer), window_scales(args, peer), false};
  return {rows_of(args.out_window.at<void>(peer, 0), row_bytes),
          rows_of(args.scales.out_window.at<void>(peer, 0), scale_bytes), true};
}

// Whether rows that stay on this rank are pushed, too, since no block has nothing else to do.
EP_DEVICE bool pushes_own(const HtMovePlan& plan) { return plan.push_blocks == dev::num_blocks(); }

// Whether receivers look at single rows.
template <bool kExpertMajor>
EP_DEVICE bool has_flags(const HtDispatchArgs& args) {
  return kExpertMajor || args.out_window.base == 0;
}

// This rank's tokens, as they leave: the caller's.
struct GivenTokens {
  static constexpr bool kHasScales = false;
  const HtDispatchArgs& args;

  EP_DEVICE Mover mover(bool has_flags, FlagQueue& queue, unsigned char* stages) const {
    return Mover(args.move, has_flags, queue, stages);
  }

  // Waits for the tokens that the lanes have.
  EP_DEVICE bool await(const HtSend&, uint64_t, uint32_t, uint32_t, bool) const { return true; }
  // Waits for a token: each thread for itself.
  EP_DEVICE bool await(uint32_t) const { return true; }
  EP_DEVICE ScaledRow<const unsigned char> at(uint32_t token) const {
    return {args.tokens + uint64_t{token} * args.move.row_bytes,
            args.scales.given + uint64_t{token} * args.scales.row_bytes};
  }
};

// The same with scales: the caller's or quantized.
template <Peers kPeers>
struct ScaledTokens {
  static constexpr bool kHasScales = true;
  const Operation<kPeers>& op;
  const HtDispatchArgs& args;
  QuantizedTokens quantized;

  EP_DEVICE ScaledMover mover(bool has_flags, FlagQueue& queue, unsigned char* stages) const {
    return ScaledMover(args.move, args.scales, has_flags, queue, stages);
  }
  EP_DEVICE bool are_quantized() const { return args.quantization.tokens != nullptr; }
  EP_DEVICE void quantize() const {
    if (are_quantized()) quantize_tokens(op, args, quantized);
  }
  EP_DEVICE bool await(const HtSend& send, uint64_t, uint32_t, uint32_t, bool exists) const {
    if (!are_quantized()) return true;
    const bool ok = dev::all(!exists || await(send.token));
    dev::sync_warp();          // one lane pushes what any of them has seen made
    dev::fence_proxy_async();  // bulk copies will read what other warps have written
    return ok;
  }
  EP_DEVICE bool await(uint32_t token) const {
    return !are_quantized() || await_quantized(op, args.quantization, token);
  }
  EP_DEVICE ScaledRow<const unsigned char> at(uint32_t token) const {
    if (!are_quantized()) return GivenTokens{args}.at(token);
    const unsigned char* row = quantized.at(token);
    return {row, row + args.move.row_bytes};
  }
};

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

// Flat: a row that nothing is known of is for no expert. A lane for each row.
EP_DEVICE void clear_row_topk(const HtDispatchArgs& args, uint32_t row) {
  for (uint32_t i = 0; i < args.num_topk; ++i) {
    args.out_topk_idx[uint64_t{row} * args.num_topk + i] = -1;
    args.out_topk_weights[uint64_t{row} * args.num_topk + i] = 0;
  }
}

// The same for all rows of which no record has come, in a group with masks.
EP_DEVICE void clear_unknown_rows(const HtDispatchArgs& args, const Crew& crew) {
  const uint32_t num_rows = args.handle.totals()->num_rows;
  for (uint32_t row = crew.thread(); row < num_rows; row += crew.num_threads()) {
    if (args.handle.home(row)->num_hits == 0) clear_row_topk(args, row);
  }
}

// Waits for the weights of a row and writes them out, in the flat layout with the experts that they are for. A lane for each
// row.
template <bool kExpertMajor, Peers kPeers>
EP_DEVICE bool receive_weights(const Operation<kPeers>& op, const HtDispatchArgs& args, const ReceivedRow& it) {
  float* out = args.out_topk_weights + (kExpertMajor ? 0 : uint64_t{it.row} * args.num_topk);
  const bool ok =
      receive_floats(op, {Wait::row_weights, op.deals_with(it.source), it.home.token}, it.row, it.home.num_hits,
                     [&](uint32_t i, float weight) { out[kExpertMajor ? it.hit(args.handle, i) : i] = weight; });
  if (kExpertMajor) return ok;
  int64_t* ids = args.out_topk_idx + uint64_t{it.row} * args.num_topk;
  for (uint32_t i = 0; i < args.num_topk; ++i) {
    const bool used = i < it.home.num_hits;
    ids[i] = used ? int64_t{args.first_expert} + it.hit(args.handle, i) : -1;
    if (!used) out[i] = 0;
  }
  return ok;
}

// Copies a row to the rows to(first) ... to(end - 1). The whole warp calls it.
template <class To>
EP_DEVICE void copy_row(const unsigned char* from, uint32_t row_bytes, uint32_t first, uint32_t end, To to) {
  constexpr uint32_t kPacks = 8;
#pragma unroll 1
  for (uint32_t begin = 16 * dev::lane_idx(); begin < row_bytes; begin += kPacks * kStripBytes) {
    Pack packs[kPacks];
#pragma unroll
    for (uint32_t p = 0; p < kPacks; ++p) {
      const uint32_t at = begin + p * kStripBytes;
      if (at < row_bytes) packs[p] = dev::ld(reinterpret_cast<const Pack*>(from + at));
    }
#pragma unroll 1
    for (uint32_t i = first; i < end; ++i) {
      unsigned char* row = to(i);
#pragma unroll
      for (uint32_t p = 0; p < kPacks; ++p) {
        const uint32_t at = begin + p * kStripBytes;
        if (at < row_bytes) dev::st(reinterpret_cast<Pack*>(row + at), packs[p]);
      }
    }
  }
}

// Copies one of this rank's tokens, with its scales if it has some, to the places to(0) ... to(num_places - 1). The whole warp
// calls it.
template <class Tokens, class To>
EP_DEVICE bool bring_token(const HtDispatchArgs& args, const Tokens& tokens, uint32_t token, uint32_t num_places,
                           To to) {
  if (!dev::all(tokens.await(token))) return false;
  const ScaledRow<const unsigned char> from = tokens.at(token);
  copy_row(from.row, args.move.row_bytes, 0, num_places, [&](uint32_t i) { return to(i).row; });
  if (Tokens::kHasScales)
    copy_scales(args.scales, from.scales, 0, num_places, [&](uint32_t i) { return to(i).scales; });
  return true;
}

// Brings a row to its final places: an own one from the caller's tensor if nobody pushes it, another from where it has
// arrived.
template <bool kExpertMajor, class Tokens, Peers kPeers>
EP_DEVICE bool deliver_row(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                           const ReceivedRow& it) {
  const uint32_t rank = op.group.rank, row_bytes = args.move.row_bytes;
  const Rows out = rows_of(args.out_tokens, row_bytes), out_scales = rows_of(args.scales.out, args.scales.row_bytes);
  const auto slot = [&](uint32_t i) { return kExpertMajor ? it.hit(args.handle, i) : it.row; };
  const auto to = [&](uint32_t i) { return out.at(slot(i)); };
  const auto scales_to = [&](uint32_t i) { return out_scales.at(slot(i)); };
  const uint32_t num_slots = kExpertMajor ? it.home.num_hits : 1;
  if (it.source == rank && !pushes_own(args.move)) {
    return bring_token(args, tokens, it.home.token, num_slots,
                       [&](uint32_t i) { return ScaledRow<unsigned char>{to(i), scales_to(i)}; });
  }
  const bool direct = is_direct(args, it.source, rank);
  if (direct && !kExpertMajor) return true;
  // Every flag is awaited, also of a row that is where it belongs: it may be raised after all rows are said to be done, and a
  // later operation uses it again.
  const Awaited awaited{Wait::dispatch_row, op.deals_with(it.source), it.home.token};
  if (!it.has_come && !await_rows(op, awaited, true, it.row)) return op.warp_goes_on();
  const uint32_t first = direct ? 1 : 0;
  if (first == num_slots) return true;
  dev::sync_warp();  // another lane may have seen it come
  copy_row(direct ? to(0) : window_rows(op.group, rank).at(it.row), row_bytes, first, num_slots, to);
  if (!Tokens::kHasScales) return true;
  copy_scales(args.scales, direct ? scales_to(0) : window_scales(args, rank).at(it.row), first, num_slots, scales_to);
  return true;
}

template <bool kExpertMajor, class Tokens, Peers kPeers>
EP_DEVICE void receive_rows(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                            const Crew& crew, const RowRanges& ranges) {
  const bool flags = has_flags<kExpertMajor>(args);
  const auto look_up = [&](uint64_t i, ReceivedRow& mine) {
    mine = row_in_turn(args.handle, ranges, crew, i);
    if (!mine.exists) return true;
    mine.has_come = flags && (mine.source != op.group.rank || pushes_own(args.move)) && has_come(op, mine.row);
    const bool ok = !args.topk_weights || receive_weights<kExpertMajor>(op, args, mine);
    if constexpr (Operation<kPeers>::kMasks) {
      if (ok || !op.goes_on()) return ok;
      if (!kExpertMajor) clear_row_topk(args, mine.row);
      mine.exists = false;
      return true;
    }
    return ok;
  };
  for_each_row(crew, uint64_t{ranges.most()} * ranges.num_ranks, look_up,
               [&](const ReceivedRow& it) { return deliver_row<kExpertMajor>(op, args, tokens, it); });
}

// Expert-major: zeros in the slots behind each expert's rows, and no weight.
template <bool kHasScales>
EP_DEVICE void fill_padding(const HtDispatchArgs& args, const Crew& crew) {
  const uint32_t packs = args.move.row_bytes / 16;
  for (uint32_t expert = crew.worker(); expert < args.group.num_local_experts; expert += crew.num_workers()) {
    const HtZone zone = *args.handle.zone(expert);
    for (uint32_t i = zone.num_rows; i < zone.num_slots; ++i) {
      const uint64_t slot = uint64_t{zone.begin} + i;
      Unit* row = reinterpret_cast<Unit*>(args.out_tokens + slot * args.move.row_bytes);
      for (uint32_t p = dev::lane_idx(); p < packs; p += 32) dev::st(row + p, Unit{{0, 0, 0}, 0});
      if (kHasScales) clear_scales(args.scales, args.scales.out + slot * args.scales.row_bytes);
      if (args.out_topk_weights && dev::lane_idx() == 0) args.out_topk_weights[slot] = 0;
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

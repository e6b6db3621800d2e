// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch: every token's row once to each rank that has one of its experts, in one launch.
//
// Parties: of some blocks some warps push rows, and unless rows go straight to their place one raises flags; the other
// blocks send weights, receive them, and bring this rank's own rows and those that have arrived to their final places. The
// update has told everybody where rows lie. A row goes straight into the receiver's output if that is a window,
// expert-major to its first slot; else by way of the receiver's window. Waits: for peers to start, for rows and weights to
// arrive, for peers to be done.
#pragma once

#include "device/numeric.hpp"
#include "ht/mover.cuh"
#include "ht/parties.cuh"
#include "ht/tickets.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

// Whether rows from `source` go straight into the output of a rank.
EP_DEVICE bool is_direct(const HtDispatchArgs& args, uint32_t source, uint32_t rank) {
  return args.out_window.base != 0 || source == rank;
}

// Where a flow's rows are pushed to, and whether that is the output.
struct Destination {
  Rows rows;
  bool direct;
};

EP_DEVICE Destination destination(const HtDispatchArgs& args, uint32_t flow) {
  if (flow == args.group.rank) return {rows_of(args.out_tokens, args.move.row_bytes), true};
  const uint32_t peer = rank_of_flow(args.group, flow);
  if (args.out_window.base == 0) return {window_rows(args.group, peer), false};
  return {rows_of(args.out_window.at<void>(peer, 0), args.move.row_bytes), true};
}

// Whether rows that stay on this rank are pushed, too, since no block has nothing else to do.
EP_DEVICE bool pushes_own(const HtMovePlan& plan) { return plan.push_blocks == dev::num_blocks(); }

// Whether receivers look at single rows.
template <bool kExpertMajor>
EP_DEVICE bool has_flags(const HtDispatchArgs& args) {
  return kExpertMajor || args.out_window.base == 0;
}

// This rank's own rows, as they are pushed.
struct OwnRows {
  const HtDispatchArgs& args;

  EP_DEVICE bool await(const HtSend&, uint64_t, uint32_t, uint32_t, bool) const { return true; }
  EP_DEVICE const unsigned char* at(uint32_t token) const {
    return args.tokens + uint64_t{token} * args.move.row_bytes;
  }
};

// Pushes some rows of a flow, which lie where `from` says when they have come. The lanes look them up, one of them moves.
template <class From>
EP_DEVICE bool push_ticket(const HtDispatchArgs& args, const From& from, uint32_t flow, const HtOutgoing& outgoing,
                           uint32_t first, uint32_t end, Mover& mover) {
  const Destination to = destination(args, flow);
  const uint32_t peer = rank_of_flow(args.group, flow), mine = first + dev::lane_idx();
  const uint64_t index = uint64_t{outgoing.first} + mine;
  const HtSend send = mine < end ? dev::ld(args.handle.send(index)) : HtSend{};
  if (!from.await(send, index, peer, outgoing.row + mine, mine < end)) return false;
  for (uint32_t i = 0; first + i < end; ++i) {
    const uint32_t token = dev::shfl(send.token, i), slot = dev::shfl(send.slot, i);
    const uint32_t row = outgoing.row + first + i;
    if (dev::lane_idx() != 0 || slot == HtHandleLayout::kNoSlot) continue;
    mover.move(from.at(token), to.rows.at(to.direct ? slot : row), flag_of(args.group, peer, row));
  }
  return true;
}

// Pushes rows of a flow until others have taken all that are left. The whole warp calls it.
template <class From>
EP_DEVICE void push_flow(const Operation& op, const HtDispatchArgs& args, const From& from, uint32_t flow,
                         Mover& mover) {
  const HtOutgoing outgoing = *args.handle.outgoing(flow);
  uint32_t num_mine = 0;
  bool ok = true;
  for_each_ticket(args.move, flow, outgoing.num_rows, [&](uint32_t first, uint32_t end) {
    ok = ok && push_ticket(args, from, flow, outgoing, first, end, mover);
    num_mine += end - first;
  });
  if (dev::lane_idx() != 0 || num_mine == 0) return;
  mover.drain();
  if (ok) add_arrived(op, args.move, flow, num_mine, outgoing.num_rows);
}

EP_DEVICE void push_rows(const Operation& op, const HtDispatchArgs& args, Mover& mover) {
  const auto num_rows = [&](uint32_t flow) { return args.handle.outgoing(flow)->num_rows; };
  for_each_own_flow(op, args.move, pushes_own(args.move), num_rows,
                    [&](uint32_t flow) { push_flow(op, args, OwnRows{args}, flow, mover); });
}

// Nobody pushes where nothing goes.
EP_DEVICE void finish_idle_flows(const Operation& op, const HtDispatchArgs& args) {
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
EP_DEVICE void send_weights(const Operation& op, const HtDispatchArgs& args, const Crew& crew) {
  const uint32_t num_tokens = args.handle.totals()->num_tokens;
  for (uint32_t token = crew.thread(); token < num_tokens; token += crew.num_threads()) {
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      if (!op.group.is_in_team(dest.rank)) break;
      send_floats(op, dest.rank, dest.row, dest.hits.count,
                  [&](uint32_t j) { return weight_of(args, token, dest.hits.first + j); });
    }
  }
}

// Waits for the weights of a row and writes them out, in the flat layout with the experts that they are for. A lane for each
// row.
template <bool kExpertMajor>
EP_DEVICE bool receive_weights(const Operation& op, const HtDispatchArgs& args, const ReceivedRow& it) {
  float* out = args.out_topk_weights + (kExpertMajor ? 0 : uint64_t{it.row} * args.num_topk);
  const bool ok =
      receive_floats(op, {Wait::row_weights, it.source, it.home.token}, it.row, it.home.num_hits,
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

// Brings a row to its final places: an own one from the caller's tensor if nobody pushes it, another from where it has
// arrived.
template <bool kExpertMajor>
EP_DEVICE bool deliver_row(const Operation& op, const HtDispatchArgs& args, const ReceivedRow& it) {
  const uint32_t rank = op.group.rank, row_bytes = args.move.row_bytes;
  const Rows out = rows_of(args.out_tokens, row_bytes);
  const auto slot = [&](uint32_t i) { return kExpertMajor ? it.hit(args.handle, i) : it.row; };
  const auto to = [&](uint32_t i) { return out.at(slot(i)); };
  const uint32_t num_slots = kExpertMajor ? it.home.num_hits : 1;
  if (it.source == rank && !pushes_own(args.move)) {
    copy_row(args.tokens + uint64_t{it.home.token} * row_bytes, row_bytes, 0, num_slots, to);
    return true;
  }
  const bool direct = is_direct(args, it.source, rank);
  if (direct && num_slots == 1) return true;
  const Awaited awaited{Wait::dispatch_row, it.source, it.home.token};
  if (!it.has_come && !await_rows(op, awaited, true, it.row)) return false;
  dev::sync_warp();  // another lane may have seen it come
  copy_row(direct ? out.at(slot(0)) : window_rows(op.group, rank).at(it.row), row_bytes, direct ? 1 : 0, num_slots, to);
  return true;
}

template <bool kExpertMajor>
EP_DEVICE void receive_rows(const Operation& op, const HtDispatchArgs& args, const Crew& crew,
                            const RowRanges& ranges) {
  const bool flags = has_flags<kExpertMajor>(args);
  const auto look_up = [&](uint64_t i, ReceivedRow& mine) {
    mine = row_in_turn(args.handle, ranges, crew, i);
    if (!mine.exists) return true;
    mine.has_come = flags && (mine.source != op.group.rank || pushes_own(args.move)) && has_come(op, mine.row);
    return !args.topk_weights || receive_weights<kExpertMajor>(op, args, mine);
  };
  for_each_row(crew, uint64_t{ranges.most} * ranges.num_ranks, look_up,
               [&](const ReceivedRow& it) { return deliver_row<kExpertMajor>(op, args, it); });
}

// Expert-major: zeros in the slots behind each expert's rows, and no weight.
EP_DEVICE void fill_padding(const HtDispatchArgs& args, const Crew& crew) {
  const uint32_t packs = args.move.row_bytes / 16;
  for (uint32_t expert = crew.worker(); expert < args.group.num_local_experts; expert += crew.num_workers()) {
    const HtZone zone = *args.handle.zone(expert);
    for (uint32_t i = zone.num_rows; i < zone.num_slots; ++i) {
      const uint64_t slot = uint64_t{zone.begin} + i;
      Unit* row = reinterpret_cast<Unit*>(args.out_tokens + slot * args.move.row_bytes);
      for (uint32_t p = dev::lane_idx(); p < packs; p += 32) dev::st(row + p, Unit{{0, 0, 0}, 0});
      if (args.out_topk_weights && dev::lane_idx() == 0) args.out_topk_weights[slot] = 0;
    }
  }
}

// Guests and what leaves the team, where there is but one (dispatch_remote.cuh has those that there are).
struct NoGuests {
  EP_DEVICE static NoRails rails() { return {}; }
  EP_DEVICE static void push_rows(const Operation&, Mover&) {}
  EP_DEVICE static void send_parcels(const Operation&, const Crew&) {}
  EP_DEVICE static void await_all(const Operation&) {}
};

template <bool kExpertMajor, class Guests>
EP_DEVICE void dispatch_with(const HtDispatchArgs& args, const Guests& guests) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const RowRanges ranges = load_row_ranges(args.group, args.handle);
  const Start start = begin(args.group, guests.rails());
  const Operation op{{args.group, start.epoch}};
  const Crews crews(args.move, has_flags<kExpertMajor>(args));
  if (start.ready) {
    if (crews.pushers.has_me()) {
      Mover mover(args.move, has_flags<kExpertMajor>(args), queues[dev::warp_idx()],
                  shared + dev::warp_idx() * args.move.mover_bytes());
      if (dev::lane_idx() == 0) mover.open();
      push_rows(op, args, mover);
      guests.push_rows(op, mover);
      if (dev::lane_idx() == 0) mover.close();
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    } else if (crews.receivers.has_me()) {
      if (kExpertMajor) fill_padding(args, crews.receivers);
      if (args.topk_weights && await_peers(op)) send_weights(op, args, crews.receivers);
      guests.send_parcels(op, crews.receivers);
      receive_rows<kExpertMajor>(op, args, crews.receivers, ranges);
      if (crews.receivers.worker() == 0) {
        finish_idle_flows(op, args);
        await_all_done(op);
        guests.await_all(op);
      }
    }
  }
  finish_pushing(op, args.move);
}

template <bool kExpertMajor>
EP_DEVICE void dispatch(const HtDispatchArgs& args) {
  dispatch_with<kExpertMajor>(args, NoGuests());
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch: every token's row once to each rank that has one of its experts, in one launch.
//
// Parties: of each block some warps push rows to one peer, some bring this rank's own rows and those that have arrived to
// their final places, the others send and receive weights. The update has told everybody where rows lie. A row goes
// straight into the receiver's output if that is a window, expert-major to its first slot; else by way of the receiver's
// window. Waits: for peers to start, for rows and weights to arrive, for peers to be done.
#pragma once

#include "ht/parties.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

// Where a row is pushed to.
struct Destination {
  Rows rows;
  bool is_output;

  EP_DEVICE Destination(const HtDispatchArgs& args, uint32_t rank) : is_output(args.out_window.base != 0) {
    const HtGroupState& group = args.group;
    rows = is_output ? rows_of(args.out_window.at<void>(rank, 0), args.move.row_bytes)
                     : rows_of(group.window.at<void>(rank, group.layout.row_at(0)), group.layout.row_bytes);
  }
};

// Whether receivers look at single rows.
template <bool kExpertMajor>
EP_DEVICE bool has_flags(const HtDispatchArgs& args) {
  return kExpertMajor || args.out_window.base == 0;
}

// Pushes this rank's rows to a peer. The lanes look up the warp's next 32 tokens.
template <bool kExpertMajor>
EP_DEVICE void push_to(const Operation& op, const HtDispatchArgs& args, const PushTeam& team, uint32_t peer,
                       Mover& mover) {
  const HtGroupState& group = op.group;
  const Destination to(args, peer);
  const bool flags = has_flags<kExpertMajor>(args);
  for (uint32_t first = team.worker; first < args.num_tokens; first += 32 * team.num_workers) {
    const uint32_t token = first + dev::lane_idx() * team.num_workers;
    uint32_t row = 0, slot = 0;
    bool goes = false;
    const uint32_t num_dests = token < args.num_tokens ? *args.handle.num_dests(token) : 0;
#pragma unroll 4
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      if (dest.rank != peer) continue;
      goes = true;
      row = dest.row;
      slot = to.is_output ? dest.slot : dest.row;
    }
    for (uint32_t left = dev::ballot(goes); left; left &= left - 1) {
      const uint32_t lane = dev::find_first(left);
      const uint32_t to_slot = dev::shfl(slot, lane), to_row = dev::shfl(row, lane);
      uint32_t* flag = flags ? group.window.at<uint32_t>(peer, group.layout.flag_at(to_row)) : nullptr;
      mover.move(
          args.tokens + uint64_t{first + lane * team.num_workers} * args.move.row_bytes, to.rows, 1,
          [&](uint32_t) { return to_slot; }, flag);
    }
  }
  mover.drain(to.rows);
}

template <bool kExpertMajor>
EP_DEVICE void push_rows(const Operation& op, const HtDispatchArgs& args, Mover& mover) {
  const PushTeam team(op.group.num_ranks, args.move.push_warps);
  for (uint32_t i = team.first_peer; i + 1 < op.group.num_ranks; i += team.num_teams) {
    const uint32_t peer = peer_of(op.group, i);
    if (!dev::all(op.await_peer(peer))) return;
    push_to<kExpertMajor>(op, args, team, peer, mover);
    finish_peer(op, args.move, team, peer);
  }
}

// Brings rows to their final places: own ones from the caller's tensor, others from where they have arrived.
template <bool kExpertMajor>
EP_DEVICE void deliver_rows(const Operation& op, const HtDispatchArgs& args, const Crew& crew, const RowRanges& ranges,
                            Mover& mover) {
  const uint32_t rank = op.group.rank;
  const Destination arrived(args, rank);
  const uint32_t in_place = arrived.is_output ? 1 : 0;  // slots of a row from elsewhere that are filled already
  const Rows out = rows_of(args.out_tokens, args.move.row_bytes);
  const auto deliver = [&](const ReceivedRow& it) {
    const uint32_t* hits = args.handle.hit(it.row, 0);
    const uint32_t num_slots = kExpertMajor ? it.home.num_hits : 1;
    const auto slot = [&](uint32_t i) {
      return !kExpertMajor ? it.row : i == 0 ? it.first_hits[0] : i == 1 ? it.first_hits[1] : dev::ld(hits + i);
    };
    if (it.source == rank) {
      mover.move(args.tokens + uint64_t{it.home.token} * args.move.row_bytes, out, num_slots, slot, nullptr);
      return true;
    }
    if (num_slots == in_place) return true;
    const Awaited awaited{Wait::dispatch_row, it.source, it.home.token};
    if (!it.has_come && !await_rows(op, awaited, true, it.row)) return false;
    dev::sync_warp();  // another lane may have seen it come
    dev::fence_proxy_async();
    mover.move(
        arrived.rows.at(arrived.is_output ? slot(0) : it.row), out, num_slots - in_place,
        [&](uint32_t i) { return slot(i + in_place); }, nullptr);
    return true;
  };
  if (!kExpertMajor && arrived.is_output) {
    const auto own_row = [&](uint64_t i) {
      const uint32_t row = ranges.begin[rank] + static_cast<uint32_t>(i);
      return look_up_row(args.handle, row, rank);
    };
    for_each_row(crew, ranges.count(rank), own_row, deliver);
  } else {
    const auto any_row = [&](uint64_t i) {
      ReceivedRow received = row_in_turn(args.handle, ranges, i);
      received.has_come = received.exists && received.source != rank && has_come(op, received.row);
      return received;
    };
    for_each_row(crew, uint64_t{ranges.most} * ranges.num_ranks, any_row, deliver);
  }
  mover.drain(out);
}

// Sends the weights of this rank's tokens to the ranks that their rows go to. An expert that a row repeats gets their sum.
EP_DEVICE void send_weights(const Operation& op, const HtDispatchArgs& args, const Crew& crew) {
  EP_SHARED(float, staged, [kHtMoveThreads / 32][kHtMaxTopk]);
  float* weights = staged[dev::warp_idx()];
  for (uint32_t token = crew.worker(); token < args.num_tokens; token += crew.num_workers()) {
    const float* given = args.topk_weights + uint64_t{token} * args.num_topk;
    const uint8_t* places = args.handle.place(token, 0);
    for (uint32_t k = dev::lane_idx(); k < args.num_topk; k += 32) {
      const uint8_t hit = places[k];
      if (hit == HtHandleLayout::kNoHit) continue;
      float sum = dev::ld_nc(given + k);
      bool is_first = true;
      for (uint32_t other = 0; other < args.num_topk; ++other) {
        if (other == k || places[other] != hit) continue;
        if (other < k) is_first = false;
        if (other > k) sum = dev::add(sum, dev::ld_nc(given + other));
      }
      if (is_first) weights[hit] = sum;
    }
    dev::sync_warp();
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      send_floats(op, dest.rank, dest.row, dest.num_hits, [&](uint32_t j) { return weights[dest.first_hit + j]; });
    }
    dev::sync_warp();  // the weights are about to be replaced
  }
}

// Waits for the weights of this rank's rows and writes them out, in the flat layout with the experts that they are for.
template <bool kExpertMajor>
EP_DEVICE void receive_weights(const Operation& op, const HtDispatchArgs& args, const Crew& crew,
                               const RowRanges& ranges) {
  const auto look_up = [&](uint64_t i) { return row_in_turn(args.handle, ranges, i); };
  for_each_row(crew, uint64_t{ranges.most} * ranges.num_ranks, look_up, [&](const ReceivedRow& it) {
    const uint32_t* hits = args.handle.hit(it.row, 0);
    float* out = args.out_topk_weights + (kExpertMajor ? 0 : uint64_t{it.row} * args.num_topk);
    const bool ok =
        receive_floats(op, {Wait::row_weights, it.source, it.home.token}, it.row, it.home.num_hits,
                       [&](uint32_t i, float weight) { out[kExpertMajor ? dev::ld(hits + i) : i] = weight; });
    if (kExpertMajor) return ok;
    int64_t* ids = args.out_topk_idx + uint64_t{it.row} * args.num_topk;
    for (uint32_t i = dev::lane_idx(); i < args.num_topk; i += 32) {
      const bool used = i < it.home.num_hits;
      ids[i] = used ? int64_t{args.first_expert} + dev::ld(hits + i) : -1;
      if (!used) out[i] = 0;
    }
    return ok;
  });
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

template <bool kExpertMajor>
EP_DEVICE void dispatch(const HtDispatchArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const RowRanges ranges = load_row_ranges(args.group, args.handle);
  const Start start = begin(args.group);
  const Operation op{{args.group, start.epoch}};
  const uint32_t num_movers = args.move.push_warps + args.move.local_warps;
  const Crew pushers{0, args.move.push_warps}, locals{args.move.push_warps, args.move.local_warps};
  const Crew others{num_movers, dev::num_warps() - num_movers};
  if (start.ready) {
    if (others.has_me()) {
      if (kExpertMajor) fill_padding(args, others);
      if (args.topk_weights && await_peers(op)) {
        send_weights(op, args, others);
        receive_weights<kExpertMajor>(op, args, others, ranges);
      }
      if (others.worker() == 0) await_all_done(op);
    } else {
      Mover mover(args.move, op.epoch, shared, dev::warp_idx());
      if (pushers.has_me()) push_rows<kExpertMajor>(op, args, mover);
      if (locals.has_me()) deliver_rows<kExpertMajor>(op, args, locals, ranges, mover);
      mover.close();
    }
  }
  finish(op);
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// What a rank does in dispatch with rows that are for it: their weights and experts are written out, and rows that are not
// where they belong are brought there, its own among them.
#pragma once

#include "ht/dispatched_rows.cuh"
#include "ht/row_copies.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

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

}  // namespace nccl_ep::ht

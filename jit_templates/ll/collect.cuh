// SPDX-License-Identifier: Apache-2.0
// What a home rank does in combine: it adds up the rows of each token's ranks, in rank order, as they arrive.
#pragma once

#include "ll/routing.cuh"
#include "ll/row_sums.cuh"

namespace nccl_ep::ll {

// Rows that the ranks send home, when all of them are in the LSA team.
template <Peers kOthers>
struct TeamRows {
  static constexpr Peers kPeers = kOthers;
  const Operation<kPeers>& op;

  EP_DEVICE const void* at(uint32_t rank, uint32_t token) const { return op.row(op.group.rank, rank, token); }
  EP_DEVICE static Wait wait_for_rank(uint32_t) { return Wait::combine_row; }

  // The whole warp calls it; ready() may put another rank into `awaited`.
  template <class Ready>
  EP_DEVICE bool wait_for(const Awaited& awaited, Ready ready) const {
    return op.template wait_for<true, true>(awaited, ready);
  }

  // One look at a row's chunk, if it is awaited, and then, whether this lane's part of it had arrived. The whole warp calls
  // them.
  template <class Chunk, class Row>
  EP_DEVICE void look(const Chunk& chunk, const Addend& addend, bool awaited, Row& row) const {
    row.read_lines(chunk.packs, static_cast<const Unit*>(addend.row) + chunk.first_unit, awaited);
  }
  template <class Chunk, class Row>
  EP_DEVICE bool has_arrived(uint32_t, const Chunk& chunk, const Addend&, Row& row) const {
    return row.has_tags(chunk.packs, op.epoch);
  }
};

// Nothing is added for these rows.
template <class Row, uint32_t kRows>
EP_DEVICE void clear_rows(uint32_t which, Row (&rows)[kRows]) {
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) {
    if (which >> r & 1) rows[r] = {};
  }
}

// Waits for the same chunk of some ranks' rows. All are looked at before the first is judged, since each look takes as long
// as the memory. Those of a rank that turns out to be lost are zero.
template <class Rows, class Chunk, class Row, uint32_t kRows>
EP_DEVICE bool await_rows(const Rows& all_rows, uint32_t token, const Chunk& chunk, const Addend* addends,
                          uint32_t count, Row (&rows)[kRows]) {
  Awaited awaited{Wait::combine_row, 0, token};
  uint32_t lost = 0;  // rows of ranks that were masked meanwhile
  const auto is_awaited = [&](uint32_t r) { return r < count && !(lost >> r & 1); };
  const auto have_arrived = [&] {
    uint32_t missing = 0;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      all_rows.look(chunk, addends[r < count ? r : 0], is_awaited(r), rows[r]);
    }
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (is_awaited(r) && !all_rows.has_arrived(token, chunk, addends[r], rows[r])) missing |= 1u << r;
    }
    missing = dev::or_warp(missing);
    if (missing == 0) return true;
    awaited.peer = addends[dev::find_first(missing)].k;
    awaited.what = all_rows.wait_for_rank(awaited.peer);
    return false;
  };
  while (!all_rows.wait_for(awaited, have_arrived)) {
    if (!all_rows.op.warp_goes_on()) return false;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r < count && addends[r].k == awaited.peer) lost |= 1u << r;
    }
  }
  if (lost != 0) clear_rows(lost, rows);
  return true;
}

// Lists the ranks' rows for one of this rank's tokens, in rank order. Returns how many there are.
template <class Rows>
EP_DEVICE uint32_t list_rank_rows(const LlGroupState& group, const Rows& all_rows, const TopkRanks& ranks,
                                  uint32_t token, Addend* addends) {
  uint32_t num_addends = 0;
  dev::sync_warp();  // the addends are about to be replaced
  for (uint32_t base = 0; base < group.num_ranks; base += 32) {
    const uint32_t bits = ranks.bits_from(base) & active_bits<Rows::kPeers>(base), lane = dev::lane_idx();
    if (bits >> lane & 1) {
      addends[num_addends + dev::popc(bits & ((1u << lane) - 1))] = {all_rows.at(base + lane, token), 1.0f,
                                                                     base + lane};
    }
    num_addends += dev::popc(bits);
  }
  dev::sync_warp();
  return num_addends;
}

// Adds the rows of each token's ranks, in rank order. The next token's ids are on their way while one is worked on.
template <DType kDType, class Format, class Rows>
EP_DEVICE void collect_sums(const LlCombineArgs& args, const Rows& all_rows, BlockQueue queue, Addend* addends) {
  constexpr uint32_t kRows = Format::kArrivingRows;
  const uint32_t num_chunks = args.rows.num_chunks, num_items = num_tokens(args.routing.tokens) * num_chunks;
  uint32_t next = queue.next();
  TopkIds ids(args.routing, next / num_chunks);
  while (next < num_items) {
    const uint32_t token = next / num_chunks;
    const typename Format::Chunk chunk(args.rows, next % num_chunks);
    const TopkRanks ranks(args.group, args.routing, ids);
    const uint32_t num_addends = list_rank_rows(args.group, all_rows, ranks, token, addends);
    next = queue.next();
    ids = TopkIds(args.routing, next / num_chunks);
    typename Format::Row rows[kRows] = {};  // registers without a value would be taken from the start of the kernel on
    const auto fetch = [&](uint32_t first, uint32_t count) {
      return await_rows(all_rows, token, chunk, addends + first, count, rows);
    };
    if constexpr (Format::kQuantizes) {
      typename Format::Sum sum(chunk);
      if (!add_rows(addends, num_addends, rows, fetch, sum)) return;
      sum.store(args.out_tokens + token * Format::row_bytes(args));
    } else {
      LaneRow sum;
      if (!add_rows<kDType, kRows>(addends, num_addends, rows, fetch, sum)) return;
      sum.lines_to_packs().store(chunk.packs, args.out_tokens + token * Format::row_bytes(args));
    }
  }
}

}  // namespace nccl_ep::ll

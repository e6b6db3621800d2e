// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine: every token's results back to its home rank and added up there, in one launch.
//
// Parties: a token's home rank, and the expert ranks its row was dispatched to. Expert-major: the home rank
// first sends each expert rank the token's weights (as units, so nothing needs to be fenced); the expert rank
// adds up weight times row over its local experts in fp32 and pushes one row home. Rank-major: the caller has
// done that, the row is pushed as it is. The home rank adds the ranks' rows in rank order in fp32 and rounds
// once. Both sums have a fixed order, so results are bit-reproducible. Memory: the home rank's bank of this
// epoch; only expert rank s writes what lies at [s].
#pragma once

#include "ll/routing.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kCombineWarps = kLlCombineThreads / 32;

// A token's top-k row in the shared memory of a warp.
struct TopkRow {
  uint32_t id[kMaxHits];
  float weight[kMaxHits];

  // The weight of a place. An expert that is repeated in the row was dispatched once; its weights add up in the first
  // place.
  EP_DEVICE float sum_of(uint32_t k, uint32_t num_topk) const {
    float sum = weight[k];
#pragma unroll 1
    for (uint32_t later = k + 1; later < num_topk; ++later) {
      if (id[later] == id[k]) sum = dev::add(sum, weight[later]);
    }
    return sum;
  }
};

// Expert-major: sends the weights of this rank's tokens to the ranks they went to, three a unit; a lane for each unit and
// rank.
EP_DEVICE void send_weights(const Operation& op, const LlCombineArgs& args, const RankSets& sets) {
  EP_SHARED(TopkRow, rows, [kCombineWarps]);
  const LlGroupState& group = op.group;
  const uint32_t num_topk = args.routing.num_topk, num_units = (num_topk + 2) / 3;
  TopkRow& row = rows[dev::warp_idx()];
#pragma unroll 1
  for (uint32_t token = worker_idx(); token < args.routing.num_tokens; token += num_workers()) {
    for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) {
      row.id[k] = static_cast<uint32_t>(load_id(args.routing, token, k));
      row.weight[k] = dev::ld_nc(args.topk_weights + uint64_t{token} * num_topk + k);
    }
    dev::sync_warp();
#pragma unroll 1
    for (uint32_t i = dev::lane_idx(); i < num_units * group.num_ranks; i += 32) {
      const uint32_t peer = i % group.num_ranks, first = i / group.num_ranks * 3;
      if (!sets.of(peer).has(token)) continue;
      Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) {
        if (first + j < num_topk) unit.word[j] = dev::bits_from_float(row.sum_of(first + j, num_topk));
      }
      dev::st_unit(op.route(peer, group.rank, token, first / 3), unit);
    }
    dev::sync_warp();  // the row is about to be replaced
  }
}

// The rows that are added up for one token, in order, in the warp's shared memory.
struct Addend {
  const void* row;  // the caller's, or lines from another rank
  float weight;
  uint32_t k;  // expert-major: whose weight it gets; on the home rank, whose row it is
};

// Adds weight times row over a lane's words. kRows rows are in flight at a time; the order of the sum is that of the
// addends. fetch(rows, first, count) gets the rows first ... first + count - 1.
template <DType kDType, uint32_t kRows, class Fetch>
EP_DEVICE bool add_rows(const Addend* addends, uint32_t num_addends, Fetch fetch, LaneRow& result) {
  using Word = WordOf<kDType>;
  float sum[LaneRow::kStrips][4][Word::kSize] = {};
  for (uint32_t first = 0; first < num_addends; first += kRows) {
    LaneRow rows[kRows];
    const uint32_t count = num_addends - first < kRows ? num_addends - first : kRows;
    if (!fetch(rows, first, count)) return false;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const float weight = addends[first + r].weight;
#pragma unroll
      for (uint32_t i = 0; i < 4 * LaneRow::kStrips; ++i) {
        float value[Word::kSize], (&total)[Word::kSize] = sum[i / 4][i % 4];
        Word::unpack(rows[r].word[i / 4][i % 4], value);
#pragma unroll
        for (int j = 0; j < Word::kSize; ++j) {
          total[j] = first + r == 0 ? dev::mul(weight, value[j]) : dev::fma(weight, value[j], total[j]);
        }
      }
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 4 * LaneRow::kStrips; ++i) result.word[i / 4][i % 4] = Word::pack(sum[i / 4][i % 4]);
  return true;
}

// A chunk of the result for (home rank, token), for every rank's tokens in turn.
struct ResultItem {
  uint32_t home, token, chunk;

  EP_DEVICE ResultItem(const LlGroupState& group, uint32_t num_chunks, uint32_t item)
      : home((group.rank + 1 + item % group.num_ranks) % group.num_ranks),
        token(item / group.num_ranks / num_chunks),
        chunk(item / group.num_ranks % num_chunks) {}
};

// The caller's rows that belong to a received token, in the warp's shared memory. Returns how many there are.
// What is remembered of the token is read all at once, whether or not it has that many hits.
template <Layout kLayout>
EP_DEVICE uint32_t list_local_rows(const LlCombineArgs& args, const ResultItem& item, Addend* addends) {
  const LlLayout& layout = args.group.layout;
  const uint64_t slot = layout.slot(item.home, item.token), bytes = args.rows.row_bytes();
  const LlRouteHeader header = *args.routing.header(slot);
  const uint32_t num_tokens = *args.routing.num_tokens_of(item.home);
  dev::sync_warp();  // the addends are about to be replaced
  if constexpr (kLayout == Layout::rank_major) {
    if (dev::lane_idx() == 0) addends[0] = {args.tokens + layout.slot(item.home, header.row) * bytes, 1.0f, 0};
  } else {
    const uint64_t zone = uint64_t{args.group.num_ranks} * layout.max_tokens;
    for (uint32_t hit = dev::lane_idx(); hit < args.routing.handle_layout.max_hits; hit += 32) {
      const LlRouteEntry entry = *args.routing.entry(slot, hit);
      addends[hit] = {args.tokens + (entry.expert * zone + entry.row) * bytes, 0, entry.k};
    }
  }
  dev::sync_warp();
  return item.token < num_tokens ? header.num_hits : 0;
}

EP_DEVICE bool await_weights(const Operation& op, const ResultItem& item, uint32_t num_hits, Addend* addends) {
  bool ok = true;
  for (uint32_t hit = dev::lane_idx(); hit < num_hits; hit += 32) {
    const uint32_t k = addends[hit].k;
    Unit unit;
    ok &= op.wait_for_unit({Wait::route_weights, item.home, item.token},
                           op.route(op.group.rank, item.home, item.token, k / 3), unit);
    const uint32_t bits = k % 3 == 0 ? unit.word[0] : k % 3 == 1 ? unit.word[1] : unit.word[2];
    addends[hit].weight = dev::float_from_bits(bits);
  }
  dev::sync_warp();
  return dev::all(ok);
}

// What goes home of one chunk: expert-major the sum of the local rows, rank-major the row that the caller has added up.
template <Layout kLayout, DType kDType>
EP_DEVICE bool make_sum(const Operation& op, const LlCombineArgs& args, const ResultItem& item, const Chunk& chunk,
                        uint32_t num_hits, Addend* addends, LaneRow& sum) {
  const auto load = [&](LaneRow& row, uint32_t i) {
    row.load(chunk.words, static_cast<const unsigned char*>(addends[i].row));
  };
  if constexpr (kLayout == Layout::rank_major) {
    load(sum, 0);
    return true;
  } else {
    constexpr uint32_t kRows = 2;
    const auto fetch = [&](LaneRow(&rows)[kRows], uint32_t first, uint32_t count) {
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
        if (r < count) load(rows[r], first + r);
      }
      // The first rows are on their way while the weights are awaited.
      return first > 0 || await_weights(op, item, num_hits, addends);
    };
    return add_rows<kDType, kRows>(addends, num_hits, fetch, sum);
  }
}

// The most tokens that any rank dispatched, as far as this lane has looked.
EP_DEVICE uint32_t most_tokens_seen(const LlCombineArgs& args) {
  uint32_t most = 0;
  for (uint32_t home = dev::lane_idx(); home < args.group.num_ranks; home += 32) {
    const uint32_t num_tokens = *args.routing.num_tokens_of(home);
    if (num_tokens > most) most = num_tokens;
  }
  return most;
}

template <Layout kLayout, DType kDType>
EP_DEVICE void push_sums(const Operation& op, const LlCombineArgs& args, uint32_t most_tokens, BlockQueue queue,
                         Addend* addends) {
  const uint32_t num_items = op.group.num_ranks * most_tokens * args.rows.num_chunks;
  for (uint32_t i = queue.next(); i < num_items; i = queue.next()) {
    const ResultItem item(op.group, args.rows.num_chunks, i);
    const uint32_t num_hits = list_local_rows<kLayout>(args, item, addends);
    if (num_hits == 0) continue;
    const Chunk chunk(args.rows, item.chunk);
    LaneRow sum;
    if (!make_sum<kLayout, kDType>(op, args, item, chunk, num_hits, addends, sum)) return;
    sum.write_lines(chunk.words, op.row(item.home, op.group.rank, item.token) + chunk.first_unit, op.epoch);
  }
}

// Lists the ranks' rows for one of this rank's tokens, in rank order. Returns how many there are.
EP_DEVICE uint32_t list_rank_rows(const Operation& op, const RankSets& sets, uint32_t token, Addend* addends) {
  const LlGroupState& group = op.group;
  uint32_t num_addends = 0;
  dev::sync_warp();  // the addends are about to be replaced
  for (uint32_t base = 0; base < group.num_ranks; base += 32) {
    const uint32_t ranks = sets.ranks_of(group, token, base), lane = dev::lane_idx();
    if (ranks >> lane & 1) {
      addends[num_addends + dev::popc(ranks & ((1u << lane) - 1))] = {op.row(group.rank, base + lane, token), 1.0f,
                                                                      base + lane};
    }
    num_addends += dev::popc(ranks);
  }
  dev::sync_warp();
  return num_addends;
}

// Waits for the same chunk of some ranks' rows. They are looked at together, since each look takes as long as the memory.
template <uint32_t kRows>
EP_DEVICE bool await_rows(const Operation& op, uint32_t token, const Chunk& chunk, const Addend* addends,
                          uint32_t count, LaneRow (&rows)[kRows]) {
  Awaited awaited{Wait::combine_row, 0, token};
  return wait_for<true>(op.group, op.epoch, awaited, [&] {
    bool arrived = true;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const Unit* lines = static_cast<const Unit*>(addends[r].row) + chunk.first_unit;
      if (rows[r].read_lines(chunk.words, lines, op.epoch)) continue;
      arrived = false;
      awaited.peer = addends[r].k;
    }
    return arrived;
  });
}

// Adds the rows of each token's ranks, in rank order.
template <DType kDType>
EP_DEVICE void collect_sums(const Operation& op, const LlCombineArgs& args, const RankSets& sets, BlockQueue queue,
                            Addend* addends) {
  constexpr uint32_t kRows = 3;
  const uint32_t num_chunks = args.rows.num_chunks, num_items = args.routing.num_tokens * num_chunks;
  for (uint32_t item = queue.next(); item < num_items; item = queue.next()) {
    const uint32_t token = item / num_chunks;
    const Chunk chunk(args.rows, item % num_chunks);
    const uint32_t num_addends = list_rank_rows(op, sets, token, addends);
    const auto fetch = [&](LaneRow(&rows)[kRows], uint32_t first, uint32_t count) {
      return await_rows(op, token, chunk, addends + first, count, rows);
    };
    LaneRow sum;
    if (!add_rows<kDType, kRows>(addends, num_addends, fetch, sum)) return;
    sum.store(chunk.words, args.out_tokens + token * args.rows.row_bytes());
  }
}

template <Layout kLayout, DType kDType>
EP_DEVICE void combine(const LlCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxHits]);
  EP_SHARED(uint32_t, num_taken, [2]);
  const Operation op(args.group, operation_epoch(args.group, args.routing, args.phases));
  const RankSets sets(args.routing, shared);
  const bool sends = args.phases & kLlSend, receives = args.phases & kLlReceive;
  const uint32_t tokens_seen = sends ? most_tokens_seen(args) : 0;  // on its way while the peers are awaited
  if (dev::thread_idx() < 2) num_taken[dev::thread_idx()] = 0;
  if (begin(op, args.routing, sets, sends)) {
    Addend* warp_addends = addends[dev::warp_idx()];
    if (kLayout == Layout::expert_major && sends) send_weights(op, args, sets);
    if (sends) push_sums<kLayout, kDType>(op, args, dev::max_warp(tokens_seen), {num_taken}, warp_addends);
    if (receives) collect_sums<kDType>(op, args, sets, {num_taken + 1}, warp_addends);
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

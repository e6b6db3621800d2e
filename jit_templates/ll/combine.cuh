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

// A token's weights, in the warp's shared memory. An expert that is repeated in the token's row was
// dispatched once; its weights add up in the first place. The whole warp calls it.
EP_DEVICE void list_weights(const LlCombineArgs& args, uint32_t token, float* weights) {
  const uint32_t num_topk = args.routing.num_topk;
  const float* given = args.topk_weights + uint64_t{token} * num_topk;
  for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) {
    const uint64_t id = load_id(args.routing, token, k);
    float weight = dev::ld_nc(given + k);
#pragma unroll 8
    for (uint32_t later = k + 1; later < num_topk; ++later) {
      if (load_id(args.routing, token, later) == id) weight = dev::add(weight, dev::ld_nc(given + later));
    }
    weights[k] = weight;
  }
  dev::sync_warp();
}

// Expert-major: sends the weights of this rank's tokens to the ranks they went to, three a unit; a lane for
// each unit and rank.
EP_DEVICE void send_weights(const Operation& op, const LlCombineArgs& args, const RankSets& sets) {
  EP_SHARED(float, weights, [kMaxWarps][kMaxHits]);
  const LlGroupState& group = op.group;
  const uint32_t num_topk = args.routing.num_topk, num_units = (num_topk + 2) / 3;
  for (uint32_t token = worker_idx(); token < args.routing.num_tokens; token += num_workers()) {
    const float* listed = weights[dev::warp_idx()];
    list_weights(args, token, weights[dev::warp_idx()]);
    for (uint32_t i = dev::lane_idx(); i < num_units * group.num_ranks; i += 32) {
      const uint32_t peer = i % group.num_ranks, first = i / group.num_ranks * 3;
      if (!sets.of(peer).has(token)) continue;
      Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) {
        if (first + j < num_topk) unit.word[j] = dev::bits_from_float(listed[first + j]);
      }
      dev::st_unit(op.route(peer, group.rank, token, first / 3), unit);
    }
    dev::sync_warp();  // the weights are about to be replaced
  }
}

// The rows that are added up for one token, in order, in the warp's shared memory.
struct Addend {
  const unsigned char* row;
  float weight;
  uint32_t k;  // expert-major: whose weight it gets
};

// Adds weight times row over a lane's words. Several rows are in flight at a time; the order of the sum is
// that of the rows. load(batch, i) fetches row i; before the first sum, weights_ready() may wait for the
// weights.
template <DType kDType, bool kUnits, class Load, class WeightsReady>
EP_DEVICE bool add_rows(const Addend* addends, uint32_t num_addends, Load load, WeightsReady weights_ready,
                        LaneBatch<kUnits>& result) {
  using Word = WordOf<kDType>;
  constexpr uint32_t kWords = LaneWords<kUnits>::kCount, kRowsInFlight = 2;
  float sum[kWords][Word::kSize] = {};
  for (uint32_t first = 0; first < num_addends; first += kRowsInFlight) {
    LaneBatch<kUnits> batch[kRowsInFlight];
#pragma unroll
    for (uint32_t r = 0; r < kRowsInFlight; ++r) {
      if (first + r < num_addends && !load(batch[r], first + r)) return false;
    }
    if (first == 0 && !weights_ready()) return false;
#pragma unroll
    for (uint32_t r = 0; r < kRowsInFlight; ++r) {
      if (first + r >= num_addends) continue;
      const float weight = addends[first + r].weight;
#pragma unroll
      for (uint32_t i = 0; i < kWords; ++i) {
        float value[Word::kSize];
        Word::unpack(batch[r].word[i], value);
#pragma unroll
        for (int j = 0; j < Word::kSize; ++j) {
          sum[i][j] = first + r == 0 ? dev::mul(weight, value[j]) : dev::fma(weight, value[j], sum[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kWords; ++i) result.word[i] = Word::pack(sum[i]);
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
  const uint64_t slot = layout.slot(item.home, item.token), bytes = row_bytes(args.rows);
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

// Adds up the local rows of one chunk and hands the sum on, piece by piece, to store(words, sum).
template <Layout kLayout, DType kDType, bool kUnits, class Store>
EP_DEVICE bool add_local_rows(const Operation& op, const LlCombineArgs& args, const ResultItem& item, uint32_t num_hits,
                              Addend* addends, Store store) {
  const Chunk part(args.rows, item.chunk);
  const uint32_t words_per_row = 4 * args.rows.packs_per_row;
  bool waited = kLayout == Layout::rank_major;
  const auto weights_ready = [&] {
    const bool ok = waited || await_weights(op, item, num_hits, addends);
    waited = true;
    return ok;
  };
  for (uint32_t begin = part.begin; begin < part.end; begin += kLlPacksPerWarp) {
    const LaneWords<kUnits> words(part, begin);
    const auto load = [&](LaneBatch<kUnits>& batch, uint32_t i) {
      batch.load(words, addends[i].row, words_per_row);
      return true;
    };
    LaneBatch<kUnits> sum;
    const uint32_t num_addends = kLayout == Layout::expert_major ? num_hits : 1;
    if (!add_rows<kDType, kUnits>(addends, num_addends, load, weights_ready, sum)) return false;
    store(words, sum);
  }
  return true;
}

// Stores the sum of one chunk at its home rank, as units or as it is.
template <Layout kLayout, DType kDType>
EP_DEVICE bool push_sum(const Operation& op, const LlCombineArgs& args, const ResultItem& item, uint32_t num_hits,
                        Addend* addends) {
  const uint32_t rank = op.group.rank, words_per_row = 4 * args.rows.packs_per_row;
  if (goes_as_units(op.group, *args.routing.num_tokens_of(item.home))) {
    const auto store = [&](const LaneWords<true>& words, const LaneBatch<true>& sum) {
      sum.store_units(words, op.unit_row(item.home, rank, item.token), op.epoch);
    };
    return add_local_rows<kLayout, kDType, true>(op, args, item, num_hits, addends, store);
  }
  const auto store = [&](const LaneWords<false>& words, const LaneBatch<false>& sum) {
    sum.store(words, op.row(item.home, rank, item.token), words_per_row);
  };
  return add_local_rows<kLayout, kDType, false>(op, args, item, num_hits, addends, store);
}

// The most tokens that any rank dispatched. The whole warp calls it.
EP_DEVICE uint32_t most_tokens(const LlCombineArgs& args) {
  uint32_t most = 0;
  for (uint32_t home = dev::lane_idx(); home < args.group.num_ranks; home += 32) {
    const uint32_t num_tokens = *args.routing.num_tokens_of(home);
    if (num_tokens > most) most = num_tokens;
  }
  return dev::max_warp(most);
}

// Behind all its chunks, a warp raises their flags. A flag that nobody waits for does no harm.
template <Layout kLayout, DType kDType>
EP_DEVICE void push_sums(const Operation& op, const LlCombineArgs& args, uint32_t num_tokens, Addend* addends) {
  const LlGroupState& group = op.group;
  const uint32_t num_items = group.num_ranks * num_tokens * args.rows.num_chunks;
  for (uint32_t i = worker_idx(); i < num_items; i += num_workers()) {
    const ResultItem item(group, args.rows.num_chunks, i);
    const uint32_t num_hits = list_local_rows<kLayout>(args, item, addends);
    if (num_hits == 0) continue;
    if (!dev::all(push_sum<kLayout, kDType>(op, args, item, num_hits, addends))) return;
  }
  publish_pushes();
  for (uint32_t i = worker_idx() + dev::lane_idx() * num_workers(); i < num_items; i += 32 * num_workers()) {
    const ResultItem item(group, args.rows.num_chunks, i);
    if (goes_as_units(group, *args.routing.num_tokens_of(item.home))) continue;
    dev::st_relaxed<dev::Scope::system>(op.flag(item.home, group.rank, item.token, item.chunk), op.epoch);
  }
}

// Lists the ranks' rows for one of this rank's tokens, in rank order; with flags, waits for the chunk.
EP_DEVICE bool list_rank_rows(const Operation& op, const RankSets& sets, uint32_t token, uint32_t chunk, bool units,
                              uint32_t& num_addends, Addend* addends) {
  const LlGroupState& group = op.group;
  bool ok = true;
  num_addends = 0;
  for (uint32_t base = 0; base < group.num_ranks; base += 32) {
    const uint32_t ranks = sets.ranks_of(group, token, base), lane = dev::lane_idx();
    if (ranks >> lane & 1) {
      const uint32_t peer = base + lane;
      Addend& addend = addends[num_addends + dev::popc(ranks & ((1u << lane) - 1))];
      addend = {units ? reinterpret_cast<const unsigned char*>(op.unit_row(group.rank, peer, token))
                      : op.row(group.rank, peer, token),
                1.0f, peer};
      if (!units) {
        ok &= wait_acquire(group, op.epoch, {Wait::combine_row, peer, token}, op.flag(group.rank, peer, token, chunk),
                           [&](uint32_t value) { return value == op.epoch; });
      }
    }
    num_addends += dev::popc(ranks);
  }
  ok = dev::all(ok);
  dev::sync_warp();
  return ok;
}

// Adds the rows of the token's ranks, in rank order. The whole warp calls it.
template <DType kDType, bool kUnits>
EP_DEVICE bool collect_chunk(const Operation& op, const LlCombineArgs& args, const RankSets& sets, uint32_t token,
                             uint32_t chunk, Addend* addends) {
  dev::sync_warp();  // the addends are about to be reused
  uint32_t num_addends = 0;
  if (!list_rank_rows(op, sets, token, chunk, kUnits, num_addends, addends)) return false;
  const Chunk part(args.rows, chunk);
  const uint32_t words_per_row = 4 * args.rows.packs_per_row;
  for (uint32_t begin = part.begin; begin < part.end; begin += kLlPacksPerWarp) {
    const LaneWords<kUnits> words(part, begin);
    const auto load = [&](LaneBatch<kUnits>& batch, uint32_t i) {
      if constexpr (kUnits) {
        return batch.load_units(op, {Wait::combine_row, addends[i].k, token}, words,
                                reinterpret_cast<const Unit*>(addends[i].row));
      } else {
        batch.load(words, addends[i].row, words_per_row);
        return true;
      }
    };
    LaneBatch<kUnits> sum;
    if (!add_rows<kDType, kUnits>(addends, num_addends, load, [] { return true; }, sum)) return false;
    sum.store(words, args.out_tokens + token * row_bytes(args.rows), words_per_row);
  }
  return true;
}

template <DType kDType>
EP_DEVICE void collect_sums(const Operation& op, const LlCombineArgs& args, const RankSets& sets, Addend* addends) {
  const uint32_t num_chunks = args.rows.num_chunks, num_items = args.routing.num_tokens * num_chunks;
  const bool units = goes_as_units(op.group, args.routing.num_tokens);
  for (uint32_t item = worker_idx(); item < num_items; item += num_workers()) {
    const uint32_t token = item / num_chunks, chunk = item % num_chunks;
    const bool ok = units ? collect_chunk<kDType, true>(op, args, sets, token, chunk, addends)
                          : collect_chunk<kDType, false>(op, args, sets, token, chunk, addends);
    if (!dev::all(ok)) return;
  }
}

template <Layout kLayout, DType kDType>
EP_DEVICE void combine(const LlCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kMaxWarps][kMaxHits]);
  const Operation op(args.group, operation_epoch(args.group, args.routing, args.phases));
  const RankSets sets(args.routing, shared);
  const bool sends = args.phases & kLlSend;
  const uint32_t num_tokens = sends ? most_tokens(args) : 0;
  if (begin(op, args.routing, sets, sends, false)) {
    if (kLayout == Layout::expert_major && sends) send_weights(op, args, sets);
    if (sends) push_sums<kLayout, kDType>(op, args, num_tokens, addends[dev::warp_idx()]);
    if (args.phases & kLlReceive) collect_sums<kDType>(op, args, sets, addends[dev::warp_idx()]);
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

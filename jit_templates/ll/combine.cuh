// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine: every token's results back to its home rank and added up there, in one launch.
//
// Parties: a token's home rank, and the expert ranks its row was dispatched to. Expert-major: the home rank first sends
// each expert rank the token's weights (as units, so nothing needs to be fenced); the expert rank adds up weight times
// row over its local experts in fp32 and pushes one row home. Rank-major: the caller has done that, the row is pushed
// as it is. The home rank adds the ranks' rows in rank order in fp32 and rounds once. Both sums have a fixed order, so
// results are bit-reproducible. Memory: the home rank's bank of this epoch; only the expert rank `s` writes rows[s].
#pragma once

#include "ll/routing.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

// Expert-major: the weights of this rank's tokens, three a unit, in the order of dispatch's hits. An expert repeated
// in a token's row was dispatched once; its weights add up.
EP_DEVICE void send_weights(const Operation& op, const LlCombineArgs& args) {
  const LlGroupState& group = op.group;
  const uint32_t thread = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  const uint32_t num_pairs = args.routing.num_tokens * group.num_ranks;
  for (uint32_t pair = thread; pair < num_pairs; pair += dev::num_blocks() * dev::num_threads()) {
    const uint32_t token = pair / group.num_ranks, peer = pair % group.num_ranks;
    const float* weights = args.topk_weights + uint64_t{token} * args.routing.num_topk;
    Unit* units = op.route(peer, group.rank, token, 0);
    Unit unit{{0, 0, 0}, op.epoch};
    const uint32_t num_hits =
        for_each_hit(group, args.routing, token, peer, true, [&](uint32_t hit, uint32_t k, uint32_t expert) {
          float weight = dev::ld_nc(weights + k);
          const int32_t id = static_cast<int32_t>(peer * group.num_local_experts + expert);
          for (uint32_t later = k + 1; later < args.routing.num_topk; ++later) {
            if (expert_of(group, args.routing, token, later) == id) {
              weight = dev::add(weight, dev::ld_nc(weights + later));
            }
          }
          unit.word[hit % 3] = dev::bits_from_float(weight);
          if (hit % 3 == 2) dev::st_unit(units + hit / 3, unit);
        });
    if (num_hits % 3 != 0) dev::st_unit(units + num_hits / 3, unit);
  }
}

// The rows of one received token and their weights, as its warp keeps them in shared memory.
struct WeightedRow {
  const unsigned char* row;
  float weight;
};

EP_DEVICE bool collect_weighted_rows(const Operation& op, const LlCombineArgs& args, uint32_t source, uint32_t token,
                                     uint32_t num_hits, WeightedRow* rows) {
  const LlGroupState& group = op.group;
  const LlHandleLayout& layout = args.routing.handle_layout;
  const uint64_t zone = uint64_t{group.num_ranks} * group.layout.max_tokens;
  bool ok = true;
  for (uint32_t hit = dev::lane_idx(); hit < num_hits; hit += 32) {
    const auto* entry = reinterpret_cast<const LlRouteEntry*>(
        args.routing.handle_memory + layout.entry_at(group.layout.slot(source, token), hit));
    Unit unit;
    ok &= wait_for_unit(group, Wait::route_weights, source, token, op.epoch,
                        op.route(group.rank, source, token, hit / 3), unit);
    rows[hit].row = args.tokens + (entry->expert * zone + entry->row) * args.rows.packs_per_row * 16;
    rows[hit].weight = dev::float_from_bits(unit.word[hit % 3]);
  }
  dev::sync_warp();
  return dev::all(ok);
}

// Weight times row over the token's local experts, in hit order, to `destination`.
template <DType kDType>
EP_DEVICE void reduce_chunk(const Chunk& chunk, const WeightedRow* rows, uint32_t num_rows,
                            unsigned char* destination) {
  using Packing = PackOf<kDType>;
  constexpr uint32_t kInFlight = 4;
  Pack* to = reinterpret_cast<Pack*>(destination);
  for (uint32_t base = chunk.begin + dev::lane_idx(); base < chunk.end; base += 32 * kInFlight) {
    float sum[kInFlight][Packing::kSize];
    for (uint32_t r = 0; r < num_rows; ++r) {
      const Pack* from = reinterpret_cast<const Pack*>(rows[r].row);
      const float weight = rows[r].weight;
      Pack pack[kInFlight];
#pragma unroll
      for (uint32_t i = 0; i < kInFlight; ++i) {
        if (base + 32 * i < chunk.end) pack[i] = dev::ld_nc(from + base + 32 * i);
      }
#pragma unroll
      for (uint32_t i = 0; i < kInFlight; ++i) {
        float value[Packing::kSize];
        Packing::unpack(pack[i], value);
#pragma unroll
        for (int j = 0; j < Packing::kSize; ++j) {
          sum[i][j] = r == 0 ? dev::mul(weight, value[j]) : dev::fma(weight, value[j], sum[i][j]);
        }
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kInFlight; ++i) {
      if (base + 32 * i < chunk.end) dev::st(to + base + 32 * i, Packing::pack(sum[i]));
    }
  }
}

EP_DEVICE LlRouteHeader remembered(const LlGroupState& group, const LlRouting& routing, uint32_t home,
                                   uint32_t token) {
  return *reinterpret_cast<const LlRouteHeader*>(routing.handle_memory +
                                                 routing.handle_layout.header_at(group.layout.slot(home, token)));
}

// A row chunk of (home rank, token), for every rank's tokens in turn.
struct ResultItem {
  uint32_t home, token, chunk;

  EP_DEVICE ResultItem(const LlGroupState& group, uint32_t num_chunks, uint32_t item)
      : home((group.rank + 1 + item % group.num_ranks) % group.num_ranks),
        token(item / group.num_ranks / num_chunks),
        chunk(item / group.num_ranks % num_chunks) {}
};

// Expert-major: reduces the rows of each token and stores the results to their home ranks.
template <DType kDType>
EP_DEVICE void push_sums(const Operation& op, const LlCombineArgs& args, uint32_t num_items) {
  EP_SHARED(WeightedRow, rows, [kMaxWarps][kMaxHits]);
  const LlGroupState& group = op.group;
  for (uint32_t i = worker_idx(); i < num_items; i += num_workers()) {
    const ResultItem item(group, args.rows.num_chunks, i);
    const LlRouteHeader header = remembered(group, args.routing, item.home, item.token);
    if (header.num_hits == 0) continue;
    WeightedRow* warp_rows = rows[dev::warp_idx()];
    if (!collect_weighted_rows(op, args, item.home, item.token, header.num_hits, warp_rows)) return;
    reduce_chunk<kDType>(Chunk(args.rows, item.chunk), warp_rows, header.num_hits,
                         op.row(item.home, group.rank, item.token));
    dev::sync_warp();
    if (dev::lane_idx() == 0) {
      dev::st_release<dev::Scope::system>(op.flag(item.home, group.rank, item.token, item.chunk), op.epoch);
    }
  }
}

// Rank-major: pushes the caller's rows to their home ranks as they are.
EP_DEVICE void push_rows(const Operation& op, const LlCombineArgs& args, uint32_t num_items, unsigned char* shared) {
  EP_SHARED(dev::Mbarrier, loaded, [kMaxWarps][PushStages::kCount]);
  const LlGroupState& group = op.group;
  push_chunks(args.rows, op.epoch, num_items, shared, loaded[dev::warp_idx()], [&](uint32_t i) {
    const ResultItem item(group, args.rows.num_chunks, i);
    const LlRouteHeader header = remembered(group, args.routing, item.home, item.token);
    Push push{};
    if (header.num_hits == 0) return push;
    const Chunk part(args.rows, item.chunk);
    const uint64_t row = group.layout.slot(item.home, header.row);
    push.source = args.tokens + (row * args.rows.packs_per_row + part.begin) * 16;
    push.bytes = (part.end - part.begin) * 16;
    if (dev::lane_idx() == 0) {
      push.destination = op.row(item.home, group.rank, item.token) + part.begin * 16;
      push.flag = op.flag(item.home, group.rank, item.token, item.chunk);
    }
    return push;
  });
}

template <Layout kLayout, DType kDType>
EP_DEVICE void send_results(const Operation& op, const LlCombineArgs& args, unsigned char* shared) {
  if (!greet(op, false)) return;
  const uint32_t num_items = op.group.num_ranks * op.group.layout.max_tokens * args.rows.num_chunks;
  if constexpr (kLayout == Layout::expert_major) {
    send_weights(op, args);
    push_sums<kDType>(op, args, num_items);
  } else {
    push_rows(op, args, num_items, shared);
  }
}

// Adds the rows of the token's ranks, in rank order. The whole warp calls it.
template <DType kDType>
EP_DEVICE void collect_chunk(const Operation& op, const LlCombineArgs& args, uint32_t token, uint32_t chunk_idx) {
  using Packing = PackOf<kDType>;
  constexpr uint32_t kInFlight = 4;
  const LlGroupState& group = op.group;
  bool ok = true;
  for (uint32_t base = 0; base < group.num_ranks; base += 32) {
    const uint32_t peer = base + dev::lane_idx();
    if (rank_set(group, args.routing, token, base) >> dev::lane_idx() & 1) {
      const uint32_t* flag = op.flag(group.rank, peer, token, chunk_idx);
      ok &= wait_for(group, Wait::combine_row, peer, token, op.epoch,
                     [&] { return dev::ld_acquire<dev::Scope::system>(flag) == op.epoch; });
    }
  }
  ok = dev::all(ok);
  dev::sync_warp();
  if (!ok) return;

  const Chunk chunk(args.rows, chunk_idx);
  Pack* to = reinterpret_cast<Pack*>(args.out_tokens + uint64_t{token} * args.rows.packs_per_row * 16);
  for (uint32_t first = chunk.begin; first < chunk.end; first += 32 * kInFlight) {
    const uint32_t at = first + dev::lane_idx();
    float sum[kInFlight][Packing::kSize] = {};
    bool empty = true;
    for (uint32_t base = 0; base < group.num_ranks; base += 32) {
      for (uint32_t ranks = rank_set(group, args.routing, token, base); ranks != 0; ranks &= ranks - 1) {
        const uint32_t peer = base + static_cast<uint32_t>(dev::find_first(ranks));
        const Pack* from = reinterpret_cast<const Pack*>(op.row(group.rank, peer, token));
        Pack pack[kInFlight];
#pragma unroll
        for (uint32_t i = 0; i < kInFlight; ++i) {
          if (at + 32 * i < chunk.end) pack[i] = dev::ld(from + at + 32 * i);
        }
#pragma unroll
        for (uint32_t i = 0; i < kInFlight; ++i) {
          float value[Packing::kSize];
          Packing::unpack(pack[i], value);
#pragma unroll
          for (int j = 0; j < Packing::kSize; ++j) sum[i][j] = empty ? value[j] : dev::add(sum[i][j], value[j]);
        }
        empty = false;
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kInFlight; ++i) {
      if (at + 32 * i < chunk.end) dev::st(to + at + 32 * i, Packing::pack(sum[i]));
    }
  }
}

template <Layout kLayout, DType kDType>
EP_DEVICE void combine(const LlCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const Operation op(args.group, operation_epoch(args.group, args.routing, args.phases));
  if (args.phases & kLlSend) send_results<kLayout, kDType>(op, args, shared);
  if (args.phases & kLlReceive) {
    const uint32_t num_items = args.routing.num_tokens * args.rows.num_chunks;
    for (uint32_t item = worker_idx(); item < num_items; item += num_workers()) {
      collect_chunk<kDType>(op, args, item / args.rows.num_chunks, item % args.rows.num_chunks);
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

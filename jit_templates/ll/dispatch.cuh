// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch: every token's row once to each rank that hosts one of its experts, in one launch.
//
// Parties: each rank is source and receiver. Its first blocks send routes and counts to one peer each (routes.cuh);
// then its warps push rows, and all warps receive. Memory: the receiver's bank of this epoch, or with zero_copy its
// output window for the rows. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/push.cuh"
#include "ll/routes.cuh"

namespace nccl_ep::ll {

EP_DEVICE bool dispatches_units(const LlDispatchArgs& args, uint32_t num_tokens) {
  return !args.zero_copy && goes_as_units(args.group, num_tokens);
}

// The ranks base ... base + 31 that need a token's row from this rank. Own rows are copied by the receiver.
EP_DEVICE uint32_t peers_of(const LlGroupState& group, const RankSets& sets, uint32_t token, uint32_t base) {
  const uint32_t ranks = sets.ranks_of(group, token, base);
  return group.rank - base < 32 ? ranks & ~(1u << (group.rank - base)) : ranks;
}

// Where the row of (this rank, token) goes on `peer`.
EP_DEVICE unsigned char* pushed_row(const Operation& op, const LlDispatchArgs& args, const RankSets& sets,
                                    uint32_t peer, uint32_t token) {
  if (!args.zero_copy) return op.row(peer, op.group.rank, token);
  const uint64_t slot = op.group.layout.slot(op.group.rank, sets.of(peer).count_before(token));
  return args.out_window.at<unsigned char>(peer, slot * 16 * args.rows.packs_per_row);
}

// Rows go to a group of 32 ranks at a time, a lane for each rank.
EP_DEVICE void push_rows(const Operation& op, const LlDispatchArgs& args, unsigned char* shared,
                         const RankSets& sets) {
  EP_SHARED(dev::Mbarrier, loaded, [kMaxWarps][PushStages::kCount]);
  const LlGroupState& group = op.group;
  const RowCut cut(args.rows, false);
  const uint32_t num_groups = (group.num_ranks + 31) / 32;
  const uint32_t num_items = args.routing.num_tokens * cut.num_chunks * num_groups;
  push_chunks(args.rows, op.epoch, num_items, shared, loaded[dev::warp_idx()], [&](uint32_t item) {
    const uint32_t base = item % num_groups * 32;
    const uint32_t chunk = item / num_groups % cut.num_chunks, token = item / num_groups / cut.num_chunks;
    const uint32_t peers = peers_of(group, sets, token, base);
    Push push{};
    if (peers == 0) return push;
    const Chunk part = cut.chunk(chunk);
    push.source = args.tokens + token * cut.row_bytes() + part.begin * 16;
    push.bytes = (part.end - part.begin) * 16;
    if (peers >> dev::lane_idx() & 1) {
      const uint32_t peer = base + dev::lane_idx();
      push.destination = pushed_row(op, args, sets, peer, token) + part.begin * 16;
      push.flag = op.flag(peer, group.rank, token, chunk);
    }
    return push;
  });
}

EP_DEVICE void push_unit_rows(const Operation& op, const LlDispatchArgs& args, const RankSets& sets) {
  const LlGroupState& group = op.group;
  const RowCut cut(args.rows, true);
  const uint32_t num_items = args.routing.num_tokens * cut.num_chunks;
  for (uint32_t item = worker_idx(); item < num_items; item += num_workers()) {
    const uint32_t token = item / cut.num_chunks;
    const Chunk part = cut.chunk(item % cut.num_chunks);
    const LanePacks<true> packs(part, part.begin);
    LaneBatch<true> batch;
    batch.load(packs, args.tokens + token * cut.row_bytes());
    for (uint32_t base = 0; base < group.num_ranks; base += 32) {
      for (uint32_t peers = peers_of(group, sets, token, base); peers != 0; peers &= peers - 1) {
        const uint32_t peer = base + static_cast<uint32_t>(dev::find_first(peers));
        batch.store_units(packs, op.unit_row(peer, group.rank, token), op.epoch);
      }
    }
  }
}

template <Layout kLayout>
EP_DEVICE void send(const Operation& op, const LlDispatchArgs& args, unsigned char* shared) {
  const LlGroupState& group = op.group;
  const RankSets sets(args.routing, shared + args.rows.scratch_offset);
  if (!begin_sending(op, args.routing, sets, args.zero_copy)) return;
  for (uint32_t i = dev::block_idx(); i < group.num_ranks; i += dev::num_blocks()) {
    send_routes<kLayout>(op, args, sets, (group.rank + 1 + i) % group.num_ranks);
  }
  if (dispatches_units(args, args.routing.num_tokens)) {
    push_unit_rows(op, args, sets);
  } else {
    push_rows(op, args, shared, sets);
  }
}

// One piece of a received row: which chunk of which token, and how to get hold of it.
struct ReceivedPiece {
  uint32_t source, token, chunk;
  RowCut cut;
  Chunk part;

  EP_DEVICE ReceivedPiece(const LlRowPlan& plan, bool as_units, uint32_t source_rank, uint32_t token_idx,
                          uint32_t chunk_idx)
      : source(source_rank), token(token_idx), chunk(chunk_idx), cut(plan, as_units), part(cut.chunk(chunk_idx)) {}
};

// Copies a piece to the rows destination(0) ... destination(num_destinations - 1), from the bank or, if it is this
// rank's own, from the caller's tokens.
template <class Destination>
EP_DEVICE void receive_piece(const Operation& op, const LlDispatchArgs& args, const ReceivedPiece& piece,
                             uint32_t num_destinations, Destination destination) {
  const uint32_t rank = op.group.rank, source = piece.source, token = piece.token;
  const bool own = source == rank;
  if (piece.cut.units && !own) {
    const LanePacks<true> packs(piece.part, piece.part.begin);
    LaneBatch<true> batch;
    const Awaited awaited{Wait::dispatch_row, source, token};
    if (!batch.load_units(op, awaited, packs, op.unit_row(rank, source, token))) return;
    for (uint32_t i = 0; i < num_destinations; ++i) batch.store(packs, destination(i));
    return;
  }
  if (!own && !await_chunk(op, Wait::dispatch_row, source, token, piece.chunk)) return;
  const unsigned char* row = own ? args.tokens + token * piece.cut.row_bytes() : op.row(rank, source, token);
  constexpr uint32_t kBatches = 2;  // in flight at a time
  using Packs = LanePacks<false>;
  for (uint32_t begin = piece.part.begin; begin < piece.part.end; begin += kBatches * Packs::kPerWarp) {
    LaneBatch<false> batch[kBatches];
#pragma unroll
    for (uint32_t b = 0; b < kBatches; ++b) batch[b].load(Packs(piece.part, begin + b * Packs::kPerWarp), row);
    for (uint32_t i = 0; i < num_destinations; ++i) {
      unsigned char* to = destination(i);
#pragma unroll
      for (uint32_t b = 0; b < kBatches; ++b) batch[b].store(Packs(piece.part, begin + b * Packs::kPerWarp), to);
    }
  }
}

// The row numbers of a token's hits in their experts: the sender's numbering plus what lower-ranked sources send.
// A group of lanes adds the counts for one hit. Leaves them in the routes' values.
EP_DEVICE bool place_hits(const Operation& op, uint32_t source, uint32_t num_hits, Route* routes) {
  const uint32_t lane = dev::lane_idx();
  uint32_t group_size = 1;
  while (group_size < op.group.num_ranks && group_size < 32) group_size *= 2;
  bool ok = true;
  for (uint32_t first = 0; first < num_hits; first += 32 / group_size) {
    const uint32_t hit = first + lane / group_size;
    const uint32_t expert = hit < num_hits ? routes[hit].expert : 0;
    uint32_t before = 0;
    for (uint32_t lower = lane % group_size; ok && hit < num_hits && lower < source; lower += group_size) {
      Unit unit;
      ok = op.wait_for_unit({Wait::expert_counts, lower, 0}, op.counts(op.group.rank, lower, 1 + expert / 3), unit);
      before += expert % 3 == 0 ? unit.word[0] : expert % 3 == 1 ? unit.word[1] : unit.word[2];
    }
    for (uint32_t step = 1; step < group_size; step *= 2) before += dev::shfl_xor(before, step);
    if (hit < num_hits && lane % group_size == 0) routes[hit].value += before;
  }
  dev::sync_warp();
  return dev::all(ok);
}

EP_DEVICE void remember(const LlRouting& routing, uint64_t slot, const ReceivedToken& received, const Route* routes,
                        uint32_t num_entries) {
  if (dev::lane_idx() == 0) *routing.header(slot) = {received.num_hits, received.row};
  for (uint32_t hit = dev::lane_idx(); hit < num_entries; hit += 32) {
    const Route& route = routes[hit];
    *routing.entry(slot, hit) = {static_cast<uint16_t>(route.expert), static_cast<uint16_t>(route.k), route.value};
  }
}

// Expert-major: one chunk of one token of one source, to its place in each expert's zone.
EP_DEVICE void receive_into_experts(const Operation& op, const LlDispatchArgs& args, const ReceivedPiece& piece,
                                    const ReceivedToken& received, Route* routes) {
  const uint32_t num_hits = received.num_hits;
  if (!place_hits(op, piece.source, num_hits, routes)) return;
  if (piece.chunk == 0) {
    remember(args.routing, op.group.layout.slot(piece.source, piece.token), received, routes, num_hits);
  }
  if (num_hits == 0) return;
  const uint64_t zone = uint64_t{op.group.num_ranks} * op.group.layout.max_tokens;
  receive_piece(op, args, piece, num_hits, [&](uint32_t hit) {
    return args.out_tokens + (routes[hit].expert * zone + routes[hit].value) * piece.cut.row_bytes();
  });
}

// Rank-major: the row of recv_topk_idx and of the weights for a received token; -1 and 0 where an entry is not on this
// rank.
EP_DEVICE void write_topk_row(const LlDispatchArgs& args, uint64_t slot, const Route* routes, uint32_t num_hits) {
  const LlGroupState& group = args.group;
  const uint32_t num_topk = args.routing.num_topk;
  int32_t* ids = args.out_topk_idx + slot * num_topk;
  float* weights = args.out_topk_weights + slot * num_topk;
  const uint32_t first_id = args.global_expert_ids ? group.rank * group.num_local_experts : 0;
  for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) {
    int32_t id = -1;
    float weight = 0;
    for (uint32_t hit = 0; hit < num_hits; ++hit) {
      if (routes[hit].k != k) continue;
      id = static_cast<int32_t>(first_id + routes[hit].expert);
      weight = dev::float_from_bits(routes[hit].value);
    }
    ids[k] = id;
    weights[k] = weight;
  }
}

// Rank-major: one chunk of one token of one source, to the next row of that source.
EP_DEVICE void receive_by_rank(const Operation& op, const LlDispatchArgs& args, const ReceivedPiece& piece,
                               const ReceivedToken& received, const Route* routes) {
  const LlLayout& layout = op.group.layout;
  if (piece.chunk == 0) remember(args.routing, layout.slot(piece.source, piece.token), received, routes, 0);
  if (received.num_hits == 0) return;
  const uint64_t slot = layout.slot(piece.source, received.row);
  if (piece.chunk == 0) write_topk_row(args, slot, routes, received.num_hits);
  if (args.zero_copy && piece.source != op.group.rank) {
    await_chunk(op, Wait::dispatch_row, piece.source, piece.token, piece.chunk);
  } else {
    receive_piece(op, args, piece, 1, [&](uint32_t) { return args.out_tokens + slot * piece.cut.row_bytes(); });
  }
}

// The most tokens that any source has. The whole warp calls it.
EP_DEVICE uint32_t most_tokens(const Operation& op, bool& ok) {
  uint32_t most = 0;
  for (uint32_t source = dev::lane_idx(); source < op.group.num_ranks; source += 32) {
    Unit unit;
    ok &= op.wait_for_unit({Wait::token_counts, source, 0}, op.counts(op.group.rank, source, 0), unit);
    if (unit.word[0] > most) most = unit.word[0];
  }
  ok = dev::all(ok);
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = dev::shfl_xor(most, step);
    if (other > most) most = other;
  }
  return most;
}

// Tokens come in order, each rank's in turn, own rows first. The warps that push rows come last, since they are busy.
template <Layout kLayout>
EP_DEVICE void receive_rows(const Operation& op, const LlDispatchArgs& args) {
  EP_SHARED(Route, routes, [kMaxWarps][kMaxHits]);
  const LlGroupState& group = op.group;
  const uint32_t num_chunks = max_chunks(args.rows), num_ranks = group.num_ranks;
  const uint32_t max_hits = args.routing.num_topk;
  uint32_t num_items = num_ranks * group.layout.max_tokens * num_chunks;
  bool all_counted = false;
  for (uint32_t item = num_workers() - 1 - worker_idx(); item < num_items; item += num_workers()) {
    const uint32_t source = (group.rank + item % num_ranks) % num_ranks;
    const uint32_t token = item / num_ranks / num_chunks, chunk = item / num_ranks % num_chunks;
    Route* warp_routes = routes[dev::warp_idx()];
    const ReceivedToken received = await_token(op, source, token, max_hits, warp_routes);
    if (!received.ok) return;
    const ReceivedPiece piece(args.rows, dispatches_units(args, received.num_tokens), source, token, chunk);
    if (token < received.num_tokens && chunk < piece.cut.num_chunks) {
      if constexpr (kLayout == Layout::expert_major) {
        receive_into_experts(op, args, piece, received, warp_routes);
      } else {
        receive_by_rank(op, args, piece, received, warp_routes);
      }
    } else if (!all_counted) {  // no use in walking on to tokens that nobody has
      bool ok = true;
      num_items = num_ranks * most_tokens(op, ok) * num_chunks;
      if (!ok) return;
      all_counted = true;
    }
    dev::sync_warp();  // the routes are about to be reused
  }
}

// How many tokens each source has, for combine, and for the caller how many rows.
template <Layout kLayout>
EP_DEVICE void count_sources(const Operation& op, const LlDispatchArgs& args) {
  const uint32_t thread = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  for (uint32_t source = thread; source < op.group.num_ranks; source += dev::num_blocks() * dev::num_threads()) {
    Unit unit;
    if (!op.wait_for_unit({Wait::token_counts, source, 0}, op.counts(op.group.rank, source, 0), unit)) return;
    *args.routing.num_tokens_of(source) = unit.word[0];
    if (kLayout == Layout::rank_major && args.src_rank_counters) {
      args.src_rank_counters[source] = static_cast<int32_t>(unit.word[1]);
    }
  }
}

// Expert-major: the rows of each expert. Three experts a warp; the warps with the first rows are free first.
EP_DEVICE void count_experts(const Operation& op, const LlDispatchArgs& args) {
  const uint32_t num_experts = op.group.num_local_experts;
  for (uint32_t first = 3 * (num_workers() - 1 - worker_idx()); first < num_experts; first += 3 * num_workers()) {
    uint32_t count[3] = {0, 0, 0};
    bool ok = true;
    for (uint32_t source = dev::lane_idx(); source < op.group.num_ranks; source += 32) {
      Unit unit;
      ok &= op.wait_for_unit({Wait::expert_counts, source, 0}, op.counts(op.group.rank, source, 1 + first / 3), unit);
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) count[i] += unit.word[i];
    }
    if (!dev::all(ok)) return;
#pragma unroll
    for (uint32_t i = 0; i < 3; ++i) {
      const uint32_t total = dev::sum_warp(count[i]);
      if (dev::lane_idx() == i && first + i < num_experts) args.expert_counters[first + i] = static_cast<int32_t>(total);
    }
  }
}

// Rank-major: rows of recv_topk_idx that no token took.
EP_DEVICE void reset_unused_rows(const Operation& op, const LlDispatchArgs& args) {
  const LlGroupState& group = op.group;
  const uint32_t num_topk = args.routing.num_topk;
  for (uint32_t i = worker_idx(); i < group.num_ranks * group.layout.max_tokens; i += num_workers()) {
    const uint32_t source = i % group.num_ranks, row = i / group.num_ranks;
    Unit unit;
    const bool ok = op.wait_for_unit({Wait::token_counts, source, 0}, op.counts(group.rank, source, 0), unit);
    if (!dev::all(ok)) return;
    if (row < unit.word[1]) continue;
    for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) {
      args.out_topk_idx[group.layout.slot(source, row) * num_topk + k] = -1;
    }
  }
}

template <Layout kLayout>
EP_DEVICE void dispatch(const LlDispatchArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const Operation op(args.group, operation_epoch(args.group, args.routing, args.phases));
  if (args.phases & kLlSend) send<kLayout>(op, args, shared);
  if (args.phases & kLlReceive) {
    receive_rows<kLayout>(op, args);
    count_sources<kLayout>(op, args);
    if constexpr (kLayout == Layout::expert_major) {
      count_experts(op, args);
    } else {
      reset_unused_rows(op, args);
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

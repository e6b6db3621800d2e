// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch: every token's row once to each rank that hosts one of its experts, in one launch.
//
// Parties: each rank is source and receiver. Its first blocks send routes and counts to one peer each
// (routes.cuh); then its warps push rows, and all warps receive. Memory: the receiver's bank of this epoch,
// or with zero_copy its output window for the rows. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/routes.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

EP_DEVICE bool dispatches_units(const LlDispatchArgs& args, uint32_t num_tokens) {
  return !args.zero_copy && goes_as_units(args.group, num_tokens);
}

// Where the row of (this rank, token) goes on `peer`.
EP_DEVICE unsigned char* pushed_row(const Operation& op, const LlDispatchArgs& args, const RankSets& sets,
                                    uint32_t peer, uint32_t token) {
  if (!args.zero_copy) return op.row(peer, op.group.rank, token);
  const uint64_t slot = op.group.layout.slot(op.group.rank, sets.of(peer).count_before(token));
  return args.out_window.at<unsigned char>(peer, slot * row_bytes(args.rows));
}

// Who pushes to whom. Each block serves one peer (or, if there are fewer blocks, a few in turn), starting
// from the next rank: links then carry more than when all ranks visit the peers in the same order. The blocks
// that send routes push nothing if there are enough others.
struct PushTeam {
  uint32_t first_peer, num_teams;  // peers are counted from the next rank on
  uint32_t worker, num_workers;    // this warp among those that serve the same peer

  EP_DEVICE explicit PushTeam(uint32_t num_ranks) {
    const uint32_t first_block = dev::num_blocks() >= 3 * num_ranks ? num_ranks : 0;
    const uint32_t num_blocks = dev::num_blocks() - first_block, num_peers = num_ranks - 1;
    num_teams = num_peers < num_blocks ? num_peers : num_blocks;
    first_peer = num_peers;  // none
    worker = num_workers = 0;
    if (dev::block_idx() < first_block || num_peers == 0) return;
    const uint32_t block = dev::block_idx() - first_block;
    const uint32_t team_blocks = (num_blocks - block % num_teams - 1) / num_teams + 1;
    first_peer = block % num_teams;
    worker = dev::warp_idx() * team_blocks + block / num_teams;
    num_workers = dev::num_warps() * team_blocks;
  }
};

// The row chunks that a warp pushes to one peer, one after the other: at = token * num_chunks + chunk.
struct PushItems {
  TokenBits tokens;
  uint32_t num_items, num_chunks, step, at;

  EP_DEVICE PushItems(const LlDispatchArgs& args, const RankSets& sets, uint32_t peer, uint32_t first, uint32_t every)
      : tokens(sets.of(peer)),
        num_items(args.routing.num_tokens * args.rows.num_chunks),
        num_chunks(args.rows.num_chunks),
        step(every),
        at(first) {
    skip();
  }
  EP_DEVICE bool more() const { return at < num_items; }
  EP_DEVICE uint32_t token() const { return at / num_chunks; }
  EP_DEVICE uint32_t chunk() const { return at % num_chunks; }
  EP_DEVICE void next() {
    at += step;
    skip();
  }

 private:
  EP_DEVICE void skip() {
    while (more() && !tokens.has(token())) at += step;
  }
};

// Stores one chunk of a token's row at the peer. The whole warp calls it.
template <bool kUnits>
EP_DEVICE void push_chunk(const Operation& op, const LlDispatchArgs& args, const RankSets& sets, uint32_t peer,
                          uint32_t token, uint32_t chunk) {
  const uint32_t words_per_row = 4 * args.rows.packs_per_row;
  const unsigned char* row = args.tokens + token * row_bytes(args.rows);
  const Chunk part(args.rows, chunk);
  for (uint32_t begin = part.begin; begin < part.end; begin += kLlPacksPerWarp) {
    const LaneWords<kUnits> words(part, begin);
    LaneBatch<kUnits> batch;
    batch.load(words, row, words_per_row);
    if constexpr (kUnits) {
      batch.store_units(words, op.unit_row(peer, op.group.rank, token), op.epoch);
    } else {
      batch.store(words, pushed_row(op, args, sets, peer, token), words_per_row);
    }
  }
}

template <bool kUnits>
EP_DEVICE void push_rows(const Operation& op, const LlDispatchArgs& args, const RankSets& sets) {
  const uint32_t num_ranks = op.group.num_ranks, lane = dev::lane_idx();
  const PushTeam team(num_ranks);
  for (uint32_t i = team.first_peer; i < num_ranks - 1; i += team.num_teams) {
    const uint32_t peer = (op.group.rank + 1 + i) % num_ranks;
    for (PushItems items(args, sets, peer, team.worker, team.num_workers); items.more(); items.next()) {
      push_chunk<kUnits>(op, args, sets, peer, items.token(), items.chunk());
    }
  }
  if (kUnits) return;
  publish_pushes();
  for (uint32_t i = team.first_peer; i < num_ranks - 1; i += team.num_teams) {
    const uint32_t peer = (op.group.rank + 1 + i) % num_ranks;
    const uint32_t first = team.worker + lane * team.num_workers;  // a lane for each chunk
    for (PushItems items(args, sets, peer, first, 32 * team.num_workers); items.more(); items.next()) {
      uint32_t* flag = op.flag(peer, op.group.rank, items.token(), items.chunk());
      dev::st_relaxed<dev::Scope::system>(flag, op.epoch);
    }
  }
}

template <Layout kLayout>
EP_DEVICE void send(const Operation& op, const LlDispatchArgs& args, unsigned char* shared) {
  const LlGroupState& group = op.group;
  const RankSets sets(args.routing, shared);
  if (!begin(op, args.routing, sets, true, args.zero_copy)) return;
  for (uint32_t i = dev::block_idx(); i < group.num_ranks; i += dev::num_blocks()) {
    send_routes<kLayout>(op, args, sets, (group.rank + 1 + i) % group.num_ranks);
  }
  if (dispatches_units(args, args.routing.num_tokens)) {
    push_rows<true>(op, args, sets);
  } else {
    push_rows<false>(op, args, sets);
  }
}

// One piece of a received row.
struct ReceivedPiece {
  uint32_t source, token, chunk;
  bool units;
};

// Copies a piece to the rows destination(0) ... destination(num_destinations - 1), from the bank or, if it is
// this rank's own, from the caller's tokens. The whole warp calls it.
template <class Destination>
EP_DEVICE void receive_piece(const Operation& op, const LlDispatchArgs& args, const ReceivedPiece& piece,
                             uint32_t num_destinations, Destination destination) {
  const uint32_t rank = op.group.rank, source = piece.source, token = piece.token;
  const uint32_t words_per_row = 4 * args.rows.packs_per_row;
  const Chunk part(args.rows, piece.chunk);
  const bool own = source == rank;
  if (piece.units && !own) {
    for (uint32_t begin = part.begin; begin < part.end; begin += kLlPacksPerWarp) {
      const LaneWords<true> words(part, begin);
      LaneBatch<true> batch;
      if (!batch.load_units(op, {Wait::dispatch_row, source, token}, words, op.unit_row(rank, source, token))) return;
      for (uint32_t i = 0; i < num_destinations; ++i) batch.store(words, destination(i), words_per_row);
    }
    return;
  }
  if (!own && !await_chunk(op, Wait::dispatch_row, source, token, piece.chunk)) return;
  const unsigned char* row = own ? args.tokens + token * row_bytes(args.rows) : op.row(rank, source, token);
  for (uint32_t begin = part.begin; begin < part.end; begin += kLlPacksPerWarp) {
    const LaneWords<false> words(part, begin);
    LaneBatch<false> batch;
    batch.load(words, row, words_per_row);
    for (uint32_t i = 0; i < num_destinations; ++i) batch.store(words, destination(i), words_per_row);
  }
}

// The row numbers of a token's hits in their experts: the sender's numbering plus what lower-ranked sources
// send. A group of lanes adds the counts for one hit. Leaves them in the routes' values.
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
    return args.out_tokens + (routes[hit].expert * zone + routes[hit].value) * row_bytes(args.rows);
  });
}

// Rank-major: the row of recv_topk_idx and of the weights for a received token; -1 and 0 where an entry is
// not on this rank.
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
    receive_piece(op, args, piece, 1, [&](uint32_t) { return args.out_tokens + slot * row_bytes(args.rows); });
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
  return dev::max_warp(most);
}

// Tokens come in order, each rank's in turn, own rows first. The warps that push rows come last, since they
// are busy.
template <Layout kLayout>
EP_DEVICE void receive_rows(const Operation& op, const LlDispatchArgs& args) {
  EP_SHARED(Route, routes, [kMaxWarps][kMaxHits]);
  const LlGroupState& group = op.group;
  const uint32_t num_chunks = args.rows.num_chunks, num_ranks = group.num_ranks;
  const uint32_t max_hits = args.routing.num_topk;
  uint32_t num_items = num_ranks * group.layout.max_tokens * num_chunks;
  bool all_counted = false;
  for (uint32_t item = num_workers() - 1 - worker_idx(); item < num_items; item += num_workers()) {
    const uint32_t source = (group.rank + item % num_ranks) % num_ranks;
    const uint32_t token = item / num_ranks / num_chunks, chunk = item / num_ranks % num_chunks;
    Route* warp_routes = routes[dev::warp_idx()];
    const ReceivedToken received = await_token(op, source, token, max_hits, warp_routes);
    if (!received.ok) return;
    const ReceivedPiece piece{source, token, chunk, dispatches_units(args, received.num_tokens)};
    if (token < received.num_tokens) {
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
      if (dev::lane_idx() == i && first + i < num_experts)
        args.expert_counters[first + i] = static_cast<int32_t>(total);
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

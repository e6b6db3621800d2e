// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch: every token's row once to each rank that hosts one of its experts, in one launch.
//
// Parties: each rank is source and receiver. Its first blocks send routes and counts to one peer each (routes.cuh);
// then its first `num_send_workers` warps push rows, and all warps receive. Memory: the receiver's bank of this epoch,
// or with zero_copy its output window for the rows. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/routes.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

// Zero copy: every block numbers the rows for every rank, since whoever pushes a row must know its final place.
EP_DEVICE void collect_rank_sets(const LlDispatchArgs& args, TokenBits sets, uint32_t num_words) {
  const LlGroupState& group = args.group;
  for (uint32_t i = dev::thread_idx(); i < group.num_ranks * num_words; i += dev::num_threads()) sets.word[i] = 0;
  dev::sync_block();
  for (uint32_t token = dev::thread_idx(); token < args.routing.num_tokens; token += dev::num_threads()) {
    for (uint32_t k = 0; k < args.routing.num_topk; ++k) {
      const int32_t expert = expert_of(group, args.routing, token, k);
      if (expert < 0) continue;
      const uint32_t rank = static_cast<uint32_t>(expert) / group.num_local_experts;
      TokenBits{sets.word + rank * num_words}.set(token);
    }
  }
  dev::sync_block();
}

// Where the row of (this rank, token) goes on `peer`.
template <Layout kLayout>
EP_DEVICE unsigned char* pushed_row(const Operation& op, const LlDispatchArgs& args, TokenBits rank_sets,
                                    uint32_t num_words, uint32_t peer, uint32_t token) {
  if (kLayout == Layout::rank_major && args.zero_copy) {
    const uint32_t row = TokenBits{rank_sets.word + peer * num_words}.count_before(token);
    const uint64_t row_bytes = uint64_t{args.rows.packs_per_row} * 16;
    return args.out_window.at<unsigned char>(peer, op.group.layout.slot(op.group.rank, row) * row_bytes);
  }
  return op.row(peer, op.group.rank, token);
}

// Rows go to a group of 32 ranks at a time, a lane for each rank. Own rows are copied by the receiver.
template <Layout kLayout>
EP_DEVICE void push_rows(const Operation& op, const LlDispatchArgs& args, unsigned char* shared, TokenBits rank_sets,
                         uint32_t num_words) {
  EP_SHARED(dev::Mbarrier, loaded, [kMaxWarps][PushStages::kCount]);
  const LlGroupState& group = op.group;
  const uint32_t num_chunks = args.rows.num_chunks, num_groups = (group.num_ranks + 31) / 32;
  const uint32_t num_items = args.routing.num_tokens * num_chunks * num_groups;
  push_chunks(args.rows, op.epoch, num_items, shared, loaded[dev::warp_idx()], [&](uint32_t item) {
    const uint32_t base = item % num_groups * 32;
    const uint32_t chunk = item / num_groups % num_chunks, token = item / num_groups / num_chunks;
    uint32_t peers = rank_set(group, args.routing, token, base);
    if (group.rank - base < 32) peers &= ~(1u << (group.rank - base));
    Push push{};
    if (peers == 0) return push;
    const Chunk part(args.rows, chunk);
    push.source = args.tokens + (uint64_t{token} * args.rows.packs_per_row + part.begin) * 16;
    push.bytes = (part.end - part.begin) * 16;
    if (peers >> dev::lane_idx() & 1) {
      const uint32_t peer = base + dev::lane_idx();
      push.destination = pushed_row<kLayout>(op, args, rank_sets, num_words, peer, token) + part.begin * 16;
      push.flag = op.flag(peer, group.rank, token, chunk);
    }
    return push;
  });
}

template <Layout kLayout>
EP_DEVICE void send(const Operation& op, const LlDispatchArgs& args, unsigned char* shared) {
  const LlGroupState& group = op.group;
  if (!greet(op, kLayout == Layout::rank_major && args.zero_copy)) return;
  unsigned char* scratch = shared + args.rows.scratch_offset;
  for (uint32_t i = dev::block_idx(); i < group.num_ranks; i += dev::num_blocks()) {
    send_routes<kLayout>(op, args, scratch, (group.rank + 1 + i) % group.num_ranks);
  }
  const uint32_t num_words = (args.routing.num_tokens + 31) / 32;
  const TokenBits rank_sets{reinterpret_cast<uint32_t*>(scratch)};
  if (kLayout == Layout::rank_major && args.zero_copy) collect_rank_sets(args, rank_sets, num_words);
  push_rows<kLayout>(op, args, shared, rank_sets, num_words);
}

// The row numbers of a token's hits in their experts: the sender's numbering plus what lower-ranked sources send.
// A group of lanes adds the counts for one hit. Leaves them in `entries`.
EP_DEVICE bool place_hits(const Operation& op, uint32_t source, uint32_t token, uint32_t num_hits,
                          LlRouteEntry* entries) {
  const uint32_t rank = op.group.rank, lane = dev::lane_idx();
  uint32_t group_size = 1;
  while (group_size < op.group.num_ranks && group_size < 32) group_size *= 2;
  bool ok = true;
  for (uint32_t first = 0; first < num_hits; first += 32 / group_size) {
    const uint32_t hit = first + lane / group_size;
    Route route{};
    uint32_t before = 0;
    if (hit < num_hits) {
      Unit unit;
      ok &= wait_for_unit(op.group, Wait::token_routes, source, token, op.epoch, op.route(rank, source, token, hit),
                          unit);
      route = Route::decode(unit);
      for (uint32_t lower = lane % group_size; ok && lower < source; lower += group_size) {
        ok &= wait_for_unit(op.group, Wait::expert_counts, lower, token, op.epoch,
                            op.counts(rank, lower, 1 + route.expert / 3), unit);
        before += unit.word[route.expert % 3];
      }
    }
    for (uint32_t step = 1; step < group_size; step *= 2) before += dev::shfl_xor(before, step);
    if (hit < num_hits && lane % group_size == 0) entries[hit] = {route.expert, before + route.value};
  }
  dev::sync_warp();
  return dev::all(ok);
}

EP_DEVICE void remember(const LlRouting& routing, uint64_t slot, LlRouteHeader header, const LlRouteEntry* entries,
                        uint32_t num_entries) {
  const LlHandleLayout& layout = routing.handle_layout;
  if (dev::lane_idx() == 0) *reinterpret_cast<LlRouteHeader*>(routing.handle_memory + layout.header_at(slot)) = header;
  for (uint32_t hit = dev::lane_idx(); hit < num_entries; hit += 32) {
    *reinterpret_cast<LlRouteEntry*>(routing.handle_memory + layout.entry_at(slot, hit)) = entries[hit];
  }
}

// Expert-major: one chunk of one token of one source, to its place in each expert's zone.
EP_DEVICE void receive_into_experts(const Operation& op, const LlDispatchArgs& args, uint32_t source, uint32_t token,
                                    uint32_t chunk, LlRouteEntry* entries) {
  const uint64_t slot = op.group.layout.slot(source, token);
  const ReceivedToken received = await_token(op, source, token);
  if (!received.ok) return;
  const uint32_t num_hits = received.exists ? received.route.num_hits : 0;
  if (num_hits > 0 && !place_hits(op, source, token, num_hits, entries)) return;
  if (chunk == 0) remember(args.routing, slot, {num_hits, received.route.row}, entries, num_hits);
  if (num_hits == 0) return;

  const uint64_t row_bytes = uint64_t{args.rows.packs_per_row} * 16;
  const unsigned char* row = op.row(op.group.rank, source, token);
  if (source == op.group.rank) {
    row = args.tokens + token * row_bytes;
  } else if (!await_chunk(op, Wait::dispatch_row, source, token, chunk)) {
    return;
  }
  const uint64_t zone = uint64_t{op.group.num_ranks} * op.group.layout.max_tokens;
  const Chunk part(args.rows, chunk);
  for (uint32_t first = part.begin; first < part.end; first += PackBatch::kSize) {
    PackBatch batch(part, first);
    batch.load(row);
    for (uint32_t hit = 0; hit < num_hits; ++hit) {
      batch.store(args.out_tokens + (entries[hit].expert * zone + entries[hit].row) * row_bytes);
    }
  }
  dev::sync_warp();  // entries are about to be reused
}

// Rank-major: the row of recv_topk_idx (and weights) for a received token; -1 where an entry is not on this rank.
EP_DEVICE void write_topk_row(const Operation& op, const LlDispatchArgs& args, uint32_t source, uint32_t token,
                              const Route& first) {
  const uint32_t num_topk = args.routing.num_topk;
  const uint64_t row = op.group.layout.slot(source, first.row) * num_topk;
  for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) {
    args.out_topk_idx[row + k] = -1;
    args.out_topk_weights[row + k] = 0.0f;
  }
  dev::sync_warp();
  const uint32_t first_id = args.global_expert_ids ? op.group.rank * op.group.num_local_experts : 0;
  for (uint32_t hit = dev::lane_idx(); hit < first.num_hits; hit += 32) {
    Unit unit;
    if (!wait_for_unit(op.group, Wait::token_routes, source, token, op.epoch,
                       op.route(op.group.rank, source, token, hit), unit)) {
      return;
    }
    const Route route = Route::decode(unit);
    args.out_topk_idx[row + route.k] = static_cast<int32_t>(first_id + route.expert);
    args.out_topk_weights[row + route.k] = dev::float_from_bits(route.value);
  }
}

// Rank-major: one chunk of one token of one source, and with its first chunk the bookkeeping.
EP_DEVICE void receive_by_rank(const Operation& op, const LlDispatchArgs& args, uint32_t source, uint32_t token,
                               uint32_t chunk) {
  const LlGroupState& group = op.group;
  const uint64_t slot = group.layout.slot(source, token);
  const ReceivedToken received = await_token(op, source, token);
  if (!received.ok) return;
  const uint32_t num_hits = received.exists ? received.route.num_hits : 0;
  if (chunk == 0) {
    remember(args.routing, slot, {num_hits, received.route.row}, nullptr, 0);
    if (token >= received.rows_of_source) {
      for (uint32_t k = dev::lane_idx(); k < args.routing.num_topk; k += 32) {
        args.out_topk_idx[slot * args.routing.num_topk + k] = -1;
      }
    }
    if (num_hits > 0) write_topk_row(op, args, source, token, received.route);
    if (token == 0 && args.src_rank_counters && dev::lane_idx() == 0) {
      args.src_rank_counters[source] = static_cast<int32_t>(received.rows_of_source);
    }
  }
  if (num_hits == 0) return;
  const uint64_t row_bytes = uint64_t{args.rows.packs_per_row} * 16;
  const bool own = source == group.rank;
  if (!own && !await_chunk(op, Wait::dispatch_row, source, token, chunk)) return;
  if (!own && args.zero_copy) return;
  const unsigned char* row = own ? args.tokens + token * row_bytes : op.row(group.rank, source, token);
  copy_chunk(Chunk(args.rows, chunk), row,
             args.out_tokens + group.layout.slot(source, received.route.row) * row_bytes);
}

EP_DEVICE void count_experts(const Operation& op, const LlDispatchArgs& args) {
  const uint32_t num_experts = op.group.num_local_experts;
  for (uint32_t first = 3 * worker_idx(); first < num_experts; first += 3 * num_workers()) {
    uint32_t count[3] = {0, 0, 0};
    bool ok = true;
    for (uint32_t source = dev::lane_idx(); source < op.group.num_ranks; source += 32) {
      Unit unit;
      ok &= wait_for_unit(op.group, Wait::expert_counts, source, 0, op.epoch,
                          op.counts(op.group.rank, source, 1 + first / 3), unit);
      for (uint32_t i = 0; i < 3; ++i) count[i] += unit.word[i];
    }
    if (!dev::all(ok)) return;
    for (uint32_t i = 0; i < 3; ++i) {
      const uint32_t total = dev::sum_warp(count[i]);
      if (dev::lane_idx() == i && first + i < num_experts) args.expert_counters[first + i] = static_cast<int32_t>(total);
    }
  }
}

template <Layout kLayout>
EP_DEVICE void receive(const Operation& op, const LlDispatchArgs& args) {
  const LlGroupState& group = op.group;
  EP_SHARED(LlRouteEntry, entries, [kMaxWarps][kMaxHits]);
  const uint32_t num_chunks = args.rows.num_chunks, num_ranks = group.num_ranks;
  const uint32_t num_items = num_ranks * group.layout.max_tokens * num_chunks;
  // The warps that push rows come last, since they are busy at first; own rows come first, since they are there.
  for (uint32_t item = num_workers() - 1 - worker_idx(); item < num_items; item += num_workers()) {
    const uint32_t source = (group.rank + item % num_ranks) % num_ranks;
    const uint32_t token = item / num_ranks / num_chunks, chunk = item / num_ranks % num_chunks;
    if constexpr (kLayout == Layout::expert_major) {
      receive_into_experts(op, args, source, token, chunk, entries[dev::warp_idx()]);
    } else {
      receive_by_rank(op, args, source, token, chunk);
    }
  }
  if (kLayout == Layout::expert_major) count_experts(op, args);
}

template <Layout kLayout>
EP_DEVICE void dispatch(const LlDispatchArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const Operation op(args.group, operation_epoch(args.group, args.routing, args.phases));
  if (args.phases & kLlSend) send<kLayout>(op, args, shared);
  if (args.phases & kLlReceive) receive<kLayout>(op, args);
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

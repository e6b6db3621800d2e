// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch: every token's row once to each rank that hosts one of its experts, in one launch.
//
// Parties: each rank is source and receiver. Its first blocks send routes and counts to one peer each (routes.cuh). Of
// the warps of a block, some push rows while the others receive (arrivals.cuh); who has pushed all receives as well.
// Memory: the receiver's bank of this epoch. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/arrivals.cuh"

namespace nccl_ep::ll {

// Who pushes to whom in the LSA team. Each block serves one peer (or, if there are fewer blocks, a few in turn). The blocks
// that send routes push nothing if there are enough others. To quantize a row takes longer than to send it: then a block
// serves two peers at once. Computed wherever it is needed: to keep it would cost registers.
template <Peers kPeers, bool kScaled>
struct PushTeam {
  static constexpr uint32_t kPeersAtOnce = kScaled ? 2 : 1;
  uint32_t num_peers, num_teams, first_peer;  // as LsaTeam::peer() counts them; this rank is the last, if it is one
  uint32_t worker, num_workers;               // this warp among those that serve the same peer

  EP_DEVICE explicit PushTeam(const LlDispatchArgs& args) {
    const uint32_t num_ranks = args.group.num_ranks;
    const uint32_t first_block = dev::num_blocks() >= 3 * num_ranks ? num_ranks : 0;
    const uint32_t num_blocks = dev::num_blocks() - first_block;
    num_peers = team_of<kPeers>(args).size - (quantizes<kScaled>(args) ? 0 : 1);
    num_teams = quantizes<kScaled>(args) ? (num_peers + 1) / 2 : num_peers;
    if (num_teams > num_blocks) num_teams = num_blocks;
    first_peer = num_peers;  // none
    worker = num_workers = 0;
    if (dev::block_idx() < first_block || num_peers == 0) return;
    const uint32_t block = dev::block_idx() - first_block;
    const uint32_t team_blocks = (num_blocks - block % num_teams - 1) / num_teams + 1;
    first_peer = block % num_teams;
    worker = dev::warp_idx() * team_blocks + block / num_teams;
    num_workers = args.push_warps * team_blocks;
  }
};

// A piece of the pushing, counted in the order of the tokens: a chunk of a row.
struct PushItem {
  uint32_t token, chunk;

  EP_DEVICE PushItem(const LlDispatchArgs& args, uint32_t index)
      : token(index / args.rows.num_chunks), chunk(index % args.rows.num_chunks) {}
  EP_DEVICE static uint32_t count(const LlDispatchArgs& args) {
    return num_tokens(args.routing.tokens) * args.rows.num_chunks;
  }
};

// Which of the next 32 items of this warp, from `first` on, go to the i-th peer, if there is one: a lane looks at each.
template <Peers kPeers, bool kScaled>
EP_DEVICE uint32_t find_items(const LlDispatchArgs& args, const PushTeam<kPeers, kScaled>& team, uint32_t first,
                              uint32_t i) {
  const uint32_t index = first + dev::lane_idx() * team.num_workers;
  bool goes = false;
  if (i < team.num_peers && index < PushItem::count(args)) {
    const uint32_t num_experts = args.group.num_local_experts;
    const int64_t first_expert = int64_t{team_of<kPeers>(args).peer(args.group.rank, i)} * num_experts;
    goes = has_expert(args.routing, PushItem(args, index).token, first_expert, num_experts);
  }
  return dev::ballot(goes);
}

// Which of a warp's next 32 items go to each of the peers that it serves at once, from the i-th one on.
template <Peers kPeers, bool kScaled>
struct PeerItems {
  static constexpr uint32_t kPeersAtOnce = PushTeam<kPeers, kScaled>::kPeersAtOnce;
  uint32_t items[kPeersAtOnce];

  PeerItems() = default;
  EP_DEVICE PeerItems(const LlDispatchArgs& args, const PushTeam<kPeers, kScaled>& team, uint32_t first, uint32_t i) {
#pragma unroll
    for (uint32_t p = 0; p < kPeersAtOnce; ++p) items[p] = find_items(args, team, first, i + p * team.num_teams);
  }
  EP_DEVICE uint32_t of(uint32_t p) const { return p == 0 ? items[0] : items[kPeersAtOnce - 1]; }
  EP_DEVICE uint32_t of_any() const { return items[0] | items[kPeersAtOnce - 1]; }
};

// What a warp pushes first, found out before it is known whether the peers' banks are free.
template <Peers kPeers, bool kScaled>
struct FirstPush {
  PeerItems<kPeers, kScaled> items;
  LaneRow row;  // of the first item, whether or not it goes to a peer

  EP_DEVICE FirstPush() {}
  EP_DEVICE explicit FirstPush(const LlDispatchArgs& args) {
    const PushTeam<kPeers, kScaled> team(args);
    if (team.first_peer >= team.num_peers || team.worker >= PushItem::count(args)) return;
    const PushItem item(args, team.worker);
    load_payload<kScaled>(args, Chunk(args.rows, item.chunk), item.token, row);
    items = {args, team, team.worker, team.first_peer};
  }
};

// Pushes the row chunks that fall to this warp, in the order of the tokens.
template <Peers kPeers, bool kScaled>
EP_DEVICE void push_rows(const Operation<kPeers>& op, const LlDispatchArgs& args, FirstPush<kPeers, kScaled>& push) {
  const PushTeam<kPeers, kScaled> team(args);
  bool is_first = true;
  for (uint32_t i = team.first_peer; i < team.num_peers; i += team.kPeersAtOnce * team.num_teams) {
    for (uint32_t first = team.worker; first < PushItem::count(args); first += 32 * team.num_workers) {
      if (!is_first) push.items = {args, team, first, i};
      for (uint32_t number = 0, items = push.items.of_any(); items != 0; ++number, items >>= 1) {
        if (!(items & 1)) continue;
        const PushItem item(args, first + number * team.num_workers);
        const Chunk chunk(args.rows, item.chunk);
        if (!is_first || number > 0) load_payload<kScaled>(args, chunk, item.token, push.row);
#pragma unroll 1
        for (uint32_t p = 0; p < team.kPeersAtOnce; ++p) {
          const uint32_t peer = op.team.peer(op.group.rank, i + p * team.num_teams);
          if (!(push.items.of(p) >> number & 1) || !is_active(op, peer)) continue;
          Unit* lines = op.row(peer, op.group.rank, item.token) + chunk.first_unit;
          push.row.write_lines(chunk.packs, lines, op.epoch);
        }
      }
      is_first = false;
    }
  }
}

EP_DEVICE void remember(const LlRouting& routing, uint64_t slot, const Arrived& arrived, const Route* routes,
                        uint32_t num_entries) {
  if (dev::lane_idx() == 0) *routing.header(slot) = {arrived.num_hits, arrived.row};
  for (uint32_t hit = dev::lane_idx(); hit < num_entries; hit += 32) {
    const Route& route = routes[hit];
    *routing.entry(slot, hit) = {static_cast<uint16_t>(route.expert), static_cast<uint16_t>(route.k), route.value};
  }
}

// Expert-major: a chunk to its row in each expert's zone. The sender has numbered the rows within an expert; those of
// lower-ranked sources come before.
template <bool kScaled>
EP_DEVICE void deliver_to_experts(const LlDispatchArgs& args, const ArrivalTable& table, const Arrival& arrival,
                                  const Arrived& arrived, const Chunk& chunk, Route* routes, const LaneRow& row) {
  const LlLayout& layout = args.group.layout;
  for (uint32_t hit = dev::lane_idx(); hit < arrived.num_hits; hit += 32) {
    routes[hit].value += *table.first_row(arrival.source, routes[hit].expert);
  }
  dev::sync_warp();
  if (arrival.chunk == 0) {
    remember(args.routing, layout.slot(arrival.source, arrival.token), arrived, routes, arrived.num_hits);
  }
  const uint64_t zone = uint64_t{args.group.num_ranks} * layout.max_tokens;
  for (uint32_t hit = 0; hit < arrived.num_hits; ++hit) {
    store_payload<kScaled>(args, chunk, row, routes[hit].expert * zone + routes[hit].value);
  }
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

// Rank-major: a chunk to the next row of its source.
template <bool kScaled>
EP_DEVICE void deliver_by_rank(const LlDispatchArgs& args, const Arrival& arrival, const Arrived& arrived,
                               const Chunk& chunk, const Route* routes, const LaneRow& row) {
  const LlLayout& layout = args.group.layout;
  if (arrival.chunk == 0) remember(args.routing, layout.slot(arrival.source, arrival.token), arrived, routes, 0);
  if (arrived.num_hits == 0) return;
  const uint64_t slot = layout.slot(arrival.source, arrived.row);
  if (arrival.chunk == 0) write_topk_row(args, slot, routes, arrived.num_hits);
  store_payload<kScaled>(args, chunk, row, slot);
}

template <Layout kLayout, bool kScaled>
EP_DEVICE void deliver(const LlDispatchArgs& args, const ArrivalTable& table, const Arrival& arrival,
                       const Arrived& arrived, const Chunk& chunk, Route* routes, const LaneRow& row) {
  if constexpr (kLayout == Layout::expert_major) {
    deliver_to_experts<kScaled>(args, table, arrival, arrived, chunk, routes, row);
  } else {
    deliver_by_rank<kScaled>(args, arrival, arrived, chunk, routes, row);
  }
}

// Rows from the LSA team. Tokens come in order, each rank's in turn. `warp_routes` is shared memory.
template <Layout kLayout, bool kScaled, Peers kPeers>
EP_DEVICE void receive_rows(const Operation<kPeers>& op, const LlDispatchArgs& args, const ArrivalTable& table,
                            Route* warp_routes) {
  const uint32_t num_ranks = op.team.size, num_chunks = args.rows.num_chunks;
  const uint32_t num_items = num_ranks * table.most_tokens() * num_chunks;
  for (uint32_t item = table.queue().next(); item < num_items; item = table.queue().next()) {
    const Arrival arrival{op.team.first + item % num_ranks, item / num_ranks / num_chunks,
                          item / num_ranks % num_chunks};
    if (arrival.token >= table.num_tokens(arrival.source)) continue;
    const Chunk chunk(args.rows, arrival.chunk);
    LaneRow row;
    const Arrived arrived = await_arrival<kScaled>(op, args, arrival, chunk, warp_routes, row);
    if (!arrived.ok) {
      if (!op.warp_goes_on()) return;
      if (arrival.chunk == 0) remember(args.routing, op.group.layout.slot(arrival.source, arrival.token), {}, {}, 0);
      continue;
    }
    deliver<kLayout, kScaled>(args, table, arrival, arrived, chunk, warp_routes, row);
    dev::sync_warp();  // the routes are about to be reused
  }
}

// How many tokens each source has, for combine, and for the caller how many rows there are and which have no token. The
// last block does it; rank-major, all blocks mark what no token took.
template <Layout kLayout>
EP_DEVICE void report_counts(const LlDispatchArgs& args, const ArrivalTable& table) {
  const LlGroupState& group = args.group;
  const uint32_t num_topk = args.routing.num_topk;
  if (kLayout == Layout::rank_major) {
    for (uint32_t i = worker_idx(); i < group.num_ranks * group.layout.max_tokens; i += num_workers()) {
      const uint32_t source = i % group.num_ranks, row = i / group.num_ranks;
      if (row < table.num_rows(source)) continue;
      int32_t* ids = args.out_topk_idx + group.layout.slot(source, row) * num_topk;
      for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) ids[k] = -1;
    }
  }
  if (dev::block_idx() != dev::num_blocks() - 1) return;
  for (uint32_t source = dev::thread_idx(); source < table.num_ranks; source += dev::num_threads()) {
    *args.routing.num_tokens_of(source) = table.num_tokens(source);
    if (kLayout == Layout::rank_major && args.src_rank_counters) {
      args.src_rank_counters[source] = static_cast<int32_t>(table.num_rows(source));
    }
  }
  for (uint32_t expert = dev::thread_idx(); expert < table.num_experts; expert += dev::num_threads()) {
    args.expert_counters[expert] = static_cast<int32_t>(*table.first_row(table.num_ranks, expert));
  }
}

template <Layout kLayout, bool kScaled = false, Peers kPeers = Peers::team>
EP_DEVICE void dispatch(const LlDispatchArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Route, routes, [kLlDispatchThreads / 32][kMaxTopk]);
  const ArrivalTable table = ArrivalTable::make<kLayout>(args.group, shared);
  const RouteScratch scratch(table.end(), args.routing);
  const WarpTeam receivers{args.push_warps, dev::num_warps() - args.push_warps};
  const bool sends = args.phases & kLlSend, receives = args.phases & kLlReceive;
  const bool pushes = dev::warp_idx() < args.push_warps;

  if (leads() && dev::lane_idx() == 0) table.clear();
  if (has_masks(kPeers) && leads()) table.clear_incomplete();
  FirstPush<kPeers, kScaled> push;
  const Start start = begin(args, NoRemoteRanks<kPeers>{}, [&] {
    if (sends && pushes) push = FirstPush<kPeers, kScaled>(args);
    const RouteTask<kLayout> task(args);
    if (sends && task.exists(args)) task.collect(args, scratch);
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (sends && !leads()) {
      for_each_route_task<kLayout>(
          args, scratch, [&](const RouteTask<kLayout>& task) { send_routes<kLayout>(op, args, scratch, task); });
    }
    if (sends && pushes) push_rows(op, args, push);
    if (receives) {
      if (pushes) {
        dev::bar_sync(kTableBarrier, dev::num_threads());
      } else {
        fill(table, receivers, [&] { return read_counts<kPeers>(TeamCounts<kPeers>{op}, table, receivers); });
        dev::bar_arrive(kTableBarrier, dev::num_threads());
      }
      if (table.has_all()) {
        receive_rows<kLayout, kScaled>(op, args, table, routes[dev::warp_idx()]);
        report_counts<kLayout>(args, table);
      }
      note_free_banks(op, NoRemoteRanks<kPeers>{});
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine of a group with exact_combine: every expert's row travels home and is added up there, in one launch.
// This is for one LSA team; combine_exact_remote.cuh has what crosses between teams.
//
// Parties: a token's home rank, and the ranks of its experts, which push their rows as they are. The home rank has the
// weights. It adds weight times row in the order of the top-k in fp32, where each product and each sum is rounded, and
// rounds to the rows' type at the end: so sums do not depend on where the experts are. Memory: the home rank's bank of
// this epoch; the rank of the expert at place k of a token's top-k writes what lies at [token][k].
#pragma once

#include "ll/combine.cuh"

namespace nccl_ep::ll {

// Calls put(row, hit) for a chunk of each of a token's rows. The first rows have been loaded.
template <class Put>
EP_DEVICE void put_rows(const Chunk& chunk, LocalSum<PlainRows>& local, Put put) {
  constexpr uint32_t kRows = LocalSum<PlainRows>::kRows;
  for (uint32_t first = 0; first < local.num_rows; first += kRows) {
    const uint32_t count = local.num_rows - first < kRows ? local.num_rows - first : kRows;
    if (first > 0) local.load(chunk, first, count);
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r < count) put(local.rows[r], first + r);
    }
  }
}

// Pushes home what falls to this warp. The first item has been started.
template <Peers kPeers>
EP_DEVICE void push_routes(const Operation<kPeers>& op, const LlCombineArgs& args, uint32_t most_tokens,
                           BlockQueue queue, LocalSum<PlainRows>& local) {
  const uint32_t num_items = op.team.size * most_tokens * ResultItem::num_pieces(args.rows);
  for (uint32_t index = worker_idx(); index < num_items;) {
    index = queue.next();
    const ResultItem next(args, op.team, index);
    const Remembered remembered(args, next);  // on its way while this item is pushed
    const ResultItem item = local.item;
#pragma unroll 1
    for (uint32_t c = item.first_chunk; local.num_rows > 0 && c < item.end_chunk; ++c) {
      if (!is_active(op, item.home)) break;
      const Chunk chunk(args.rows, c);
      put_rows(chunk, local, [&](const LaneRow& row, uint32_t hit) {
        Unit* to = op.row_of_route(item.home, item.token, local.addends[hit].k);
        row.write_lines(chunk.packs, to + chunk.first_unit, op.epoch);
      });
      if (c + 1 < item.end_chunk) local.load_first(args, c + 1);
    }
    if (index < num_items) local.template start<Layout::expert_major>(args, next, remembered);
  }
}

// Where the places of a token's top-k lead, spread over a warp as TopkIds are.
struct Routes {
  static constexpr uint32_t kPerLane = TopkIds::kPerLane, kNone = ~0u;
  static_assert(kPerLane == 2, "a lane has the experts of two places");
  uint32_t expert[kPerLane];
  uint32_t first[kPerLane];  // the place where the expert stands first: what it sends lies there

  EP_DEVICE Routes(const LlCombineArgs& args, const TopkIds& ids) {
    const ExpertHome home(args.group);
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      const int64_t id = widen(args.routing, ids.raw[i]);
      first[i] = 32 * i + dev::lane_idx();
      expert[i] = first[i] < args.routing.num_topk && home.has(id) ? static_cast<uint32_t>(id) : kNone;
    }
#pragma unroll 1
    for (uint32_t k = args.routing.num_topk; k-- > 0;) {
      const uint32_t other = dev::shfl(k < 32 ? expert[0] : expert[1], k % 32);
#pragma unroll
      for (uint32_t i = 0; i < kPerLane; ++i) {
        if (expert[i] == other && k < first[i]) first[i] = k;
      }
    }
  }

  // How many other experts of the same rank stand before the one at the i-th place that a lane has. The whole warp calls it.
  EP_DEVICE uint32_t hit_on_rank(const LlCombineArgs& args, uint32_t i) const {
    const ExpertHome home(args.group);
    uint32_t hit = 0;
#pragma unroll 1
    for (uint32_t k = 0; k < args.routing.num_topk; ++k) {
      const uint32_t other = dev::shfl(k < 32 ? expert[0] : expert[1], k % 32);
      const bool stands_first = dev::shfl(k < 32 ? first[0] : first[1], k % 32) == k;
      if (other == kNone || !stands_first || k >= first[i]) continue;
      hit += home.rank_of(other) == home.rank_of(expert[i]);
    }
    return hit;
  }
};

// Rows that experts send home, when all of them are in the LSA team.
template <Peers kOthers>
struct TeamRoutes : TeamRows<kOthers> {
  using TeamRows<kOthers>::op;

  // What stands at the i-th place that a lane has. The whole warp calls it.
  EP_DEVICE const void* at_place(const Routes& routes, uint32_t i, uint32_t, uint32_t token) const {
    return op.row_of_route(op.group.rank, token, routes.first[i]);
  }
};

// Lists the rows for one of this rank's tokens, in the order of the top-k. Returns how many there are.
template <class Rows>
EP_DEVICE uint32_t list_routes(const LlCombineArgs& args, const Rows& all_rows, const TopkWeights& given,
                               uint32_t token, Addend* addends) {
  const Routes routes(args, given.ids);
  const ExpertHome home(args.group);
  uint32_t num_addends = 0;
  dev::sync_warp();  // the addends are about to be replaced
#pragma unroll
  for (uint32_t i = 0; i < Routes::kPerLane; ++i) {
    const uint32_t expert = routes.expert[i], rank = expert != Routes::kNone ? home.rank_of(expert) : 0;
    const bool exists = expert != Routes::kNone && is_active<Rows::kPeers>(rank);
    const uint32_t used = dev::ballot(exists), lane = dev::lane_idx();
    const void* row = all_rows.at_place(routes, i, rank, token);
    if (exists) addends[num_addends + dev::popc(used & ((1u << lane) - 1))] = {row, given.weight[i], rank};
    num_addends += dev::popc(used);
  }
  dev::sync_warp();
  return num_addends;
}

// Adds up the rows of each token. The next token's ids and weights are on their way while one is worked on.
template <DType kDType, class Rows>
EP_DEVICE void collect_routes(const LlCombineArgs& args, const Rows& all_rows, BlockQueue queue, Addend* addends) {
  constexpr uint32_t kRows = 4;
  const uint32_t num_chunks = args.rows.num_chunks, num_items = num_tokens(args.routing.tokens) * num_chunks;
  uint32_t next = queue.next();
  TopkWeights weights(args, next / num_chunks);
  while (next < num_items) {
    const uint32_t token = next / num_chunks;
    const Chunk chunk(args.rows, next % num_chunks);
    const uint32_t num_addends = list_routes(args, all_rows, weights, token, addends);
    next = queue.next();
    weights = TopkWeights(args, next / num_chunks);
    LaneRow rows[kRows] = {}, sum;
    const auto fetch = [&](uint32_t first, uint32_t count) {
      return await_rows(all_rows, token, chunk, addends + first, count, rows);
    };
    if (!add_rows<kDType, kRows, true>(addends, num_addends, rows, fetch, sum)) return;
    sum.lines_to_packs().store(chunk.packs, args.out_tokens + token * args.rows.row_bytes());
  }
}

template <class Rows>
EP_DEVICE void collect_routes(const LlCombineArgs& args, const Rows& all_rows, BlockQueue queue, Addend* addends) {
  switch (args.dtype) {
    case DType::bf16: return collect_routes<DType::bf16>(args, all_rows, queue, addends);
    case DType::fp16: return collect_routes<DType::fp16>(args, all_rows, queue, addends);
    case DType::fp32: return collect_routes<DType::fp32>(args, all_rows, queue, addends);
  }
}

template <Peers kPeers = Peers::team>
EP_DEVICE void combine_exact(const LlCombineArgs& args) {
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxTopk]);
  EP_SHARED(uint32_t, num_taken, [2]);
  const bool pushes =
      (args.phases & kLlSend) && dev::warp_idx() < args.push_warps;  // the others collect from the start
  if (leads() && dev::lane_idx() == 0) {
    num_taken[0] = args.push_warps;
    num_taken[1] = 0;
  }
  // What the first steps need is got while the peers are awaited.
  const LsaTeam team = team_of<kPeers>(args);
  const uint32_t tokens_seen = most_tokens_seen(args, team);
  LocalSum<PlainRows> local;
  local.addends = addends[dev::warp_idx()];
  const Start start = begin(args, NoRemoteRanks<kPeers>{}, [&] {
    const ResultItem item(args, team, worker_idx());
    if (pushes) local.template start<Layout::expert_major>(args, item, Remembered(args, item));
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (pushes) push_routes(op, args, dev::max_warp(tokens_seen), {num_taken}, local);
    if (args.phases & kLlReceive) {
      collect_routes(args, TeamRoutes<kPeers>{{op}}, {num_taken + 1}, local.addends);
      note_free_banks(op, NoRemoteRanks<kPeers>{});
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll

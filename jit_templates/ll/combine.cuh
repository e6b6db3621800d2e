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

#include "ll/collect.cuh"
#include "ll/weights.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kCombineWarps = kLlCombineThreads / 32;

// Some chunks of the result for (home rank, token), for the tokens of every rank of a team in turn.
struct ResultItem {
  uint32_t home, token, first_chunk, end_chunk;

  ResultItem() = default;
  EP_DEVICE ResultItem(const LlCombineArgs& args, const LsaTeam& team, uint32_t index) {
    const uint32_t num_ranks = team.size, pieces = num_pieces(args.rows);
    home = team.peer(args.group.rank, index % num_ranks);
    token = index / num_ranks / pieces;
    first_chunk = index / num_ranks % pieces * args.rows.chunks_per_item;
    end_chunk = first_chunk + args.rows.chunks_per_item;
    if (end_chunk > args.rows.num_chunks) end_chunk = args.rows.num_chunks;
  }
  EP_DEVICE static uint32_t num_pieces(const LlRowPlan& rows) {
    return (rows.num_chunks + rows.chunks_per_item - 1) / rows.chunks_per_item;
  }
};

// What the handle remembers of a received token, spread over a warp: a lane has the hits at its index and 32 behind.
// Everything is read at once, whether or not the token has that many hits, and nothing waits for it yet.
struct Remembered {
  static constexpr uint32_t kHitsPerLane = kMaxTopk / 32;
  LlRouteHeader header{};
  LlRouteEntry entry[kHitsPerLane] = {};
  uint32_t num_tokens = 0;

  EP_DEVICE Remembered(const LlCombineArgs& args, const ResultItem& item) {
    if (item.token >= args.group.layout.max_tokens) return;
    const uint64_t slot = args.group.layout.slot(item.home, item.token);
    header = dev::ld(args.routing.header(slot));
    num_tokens = dev::ld(args.routing.num_tokens_of(item.home));
#pragma unroll
    for (uint32_t i = 0; i < kHitsPerLane; ++i) {
      const uint32_t hit = 32 * i + dev::lane_idx();
      if (hit < args.routing.handle_layout.max_hits) entry[i] = dev::ld(args.routing.entry(slot, hit));
    }
  }
};

// Of rows that travel without the caller's scales: what is remembered of those.
struct NoRowScales {
  EP_DEVICE void load(const LlCombineArgs&, uint32_t, uint64_t, bool) const {}
  EP_DEVICE NoScale of_sum(const Addend*, uint32_t) const { return {}; }
};

// How rows travel home: what a lane holds of the caller's rows and of those on their way, and how many of them are in
// flight at a time. Plain ones travel as they are.
struct PlainRows {
  static constexpr bool kQuantizes = false;
  static constexpr uint32_t kLocalRows = 2, kArrivingRows = 4;
  using Chunk = ll::Chunk;
  using CallerRow = LaneRow;
  using Row = LaneRow;
  using RowScales = NoRowScales;
  // Of a row in the caller's memory.
  EP_DEVICE static uint64_t row_bytes(const LlCombineArgs& args) { return args.rows.row_bytes(); }
};

struct E4m3Rows {
  static constexpr bool kQuantizes = true;
  static constexpr uint32_t kLocalRows = 1, kArrivingRows = 4;
  using Chunk = ll::Chunk;
  using CallerRow = WideRow;
  using Row = LaneRow;
  using Sum = QuantizedSum;
  using RowScales = NoRowScales;
  EP_DEVICE static uint64_t row_bytes(const LlCombineArgs& args) {
    return uint64_t{args.num_groups} * kScaleGroup * sizeof(uint16_t);
  }
};

template <bool kScaled>
struct FormatOf {
  using Type = PlainRows;
};
template <>
struct FormatOf<true> {
  using Type = E4m3Rows;
};

// The caller's rows that belong to a received token, in the warp's shared memory. Returns how many there are; none if what
// is remembered cannot be, which a dispatch that failed leaves behind.
template <Layout kLayout, class Format>
EP_DEVICE uint32_t list_local_rows(const LlCombineArgs& args, const ResultItem& item, const Remembered& remembered,
                                   Addend* addends, typename Format::RowScales& scales) {
  const LlLayout& layout = args.group.layout;
  const LlRouteHeader& header = remembered.header;
  const uint64_t bytes = Format::row_bytes(args);
  const uint32_t num_hits = item.token < remembered.num_tokens ? header.num_hits : 0;
  bool possible = true;
  dev::sync_warp();  // the addends are about to be replaced
  if constexpr (kLayout == Layout::rank_major) {
    possible = header.row < layout.max_tokens;
    if (dev::lane_idx() == 0) {
      const uint64_t row = layout.slot(item.home, header.row);
      addends[0] = {args.tokens + row * bytes, 1.0f, 0};
      scales.load(args, 0, row, num_hits > 0 && possible);
    }
  } else {
    const uint64_t zone = uint64_t{args.group.num_ranks} * layout.max_tokens;
#pragma unroll
    for (uint32_t i = 0; i < Remembered::kHitsPerLane; ++i) {
      const LlRouteEntry& entry = remembered.entry[i];
      const uint32_t hit = 32 * i + dev::lane_idx();
      if (hit >= num_hits) continue;
      possible &= entry.expert < args.group.num_local_experts && entry.row < zone;
      const uint64_t row = entry.expert * zone + entry.row;
      addends[hit] = {args.tokens + row * bytes, 0, entry.k};
      scales.load(args, i, row, possible);
    }
  }
  dev::sync_warp();
  if (!dev::all(possible)) return 0;
  return kLayout == Layout::rank_major && num_hits > 0 ? 1 : num_hits;
}

template <Peers kPeers>
EP_DEVICE bool await_weights(const Operation<kPeers>& op, const ResultItem& item, uint32_t num_hits, Addend* addends) {
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

// A warp's work on one item: what goes home.
template <class Format>
struct LocalSum {
  using Chunk = typename Format::Chunk;
  static constexpr uint32_t kRows = Format::kLocalRows;
  ResultItem item;
  uint32_t num_rows;
  Addend* addends;                         // in the warp's shared memory
  typename Format::CallerRow rows[kRows];  // the first of a chunk are loaded ahead
  typename Format::RowScales scales;

  EP_DEVICE void load(const Chunk& chunk, uint32_t first, uint32_t count) {
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r < count) rows[r].load(chunk.packs, static_cast<const unsigned char*>(addends[first + r].row));
    }
  }
  EP_DEVICE void load_first(const LlCombineArgs& args, uint32_t chunk) {
    load(Chunk(args.rows, chunk), 0, num_rows < kRows ? num_rows : kRows);
  }

  // Starts an item. It need not exist: then it has no rows.
  template <Layout kLayout>
  EP_DEVICE void start(const LlCombineArgs& args, const ResultItem& next, const Remembered& remembered) {
    item = next;
    num_rows = list_local_rows<kLayout, Format>(args, item, remembered, addends, scales);
    load_first(args, item.first_chunk);
  }

  // A chunk for the way home: expert-major the sum of the local rows, rank-major the row as the caller has added it up.
  // `senders` are those from whom await_weights() has the weights.
  template <Layout kLayout, DType kDType, class Senders>
  EP_DEVICE bool add_up(const Senders& senders, const Chunk& chunk, bool has_weights, typename Format::Row& sum) {
    const auto fetch = [&](uint32_t first, uint32_t count) {
      if (first > 0) load(chunk, first, count);
      if constexpr (kLayout == Layout::rank_major) return true;
      return has_weights || first > 0 || await_weights(senders, item, num_rows, addends);
    };
    if constexpr (Format::kQuantizes) {
      typename Format::Sum total(chunk);
      if (!add_rows(addends, num_rows, rows, fetch, total)) return false;
      sum = total.quantized(scales.of_sum(addends, num_rows));
      return true;
    } else if constexpr (kLayout == Layout::rank_major) {
      sum = rows[0];
      return true;
    } else {
      return add_rows<kDType, kRows>(addends, num_rows, rows, fetch, sum);
    }
  }
};

// The most tokens that any rank of the team dispatched, as far as this lane has looked.
EP_DEVICE uint32_t most_tokens_seen(const LlCombineArgs& args, const LsaTeam& team) {
  uint32_t most = 0;
  for (uint32_t i = dev::lane_idx(); i < team.size; i += 32) {
    const uint32_t num_tokens = *args.routing.num_tokens_of(team.first + i);
    if (num_tokens > most) most = num_tokens;
  }
  return most;
}

// Sends home what falls to this warp, in the team. The first item has been started.
template <Layout kLayout, DType kDType, class Format, Peers kPeers>
EP_DEVICE void push_sums(const Operation<kPeers>& op, const LlCombineArgs& args, uint32_t most_tokens, BlockQueue queue,
                         LocalSum<Format>& local) {
  const uint32_t num_items = op.team.size * most_tokens * ResultItem::num_pieces(args.rows);
  for (uint32_t index = worker_idx(); index < num_items;) {
    index = queue.next();
    const ResultItem next(args, op.team, index);
    const Remembered remembered(args, next);  // on its way while this item is added up
    const ResultItem item = local.item;
#pragma unroll 1
    for (uint32_t c = item.first_chunk; local.num_rows > 0 && c < item.end_chunk; ++c) {
      if (!is_active(op, item.home)) break;
      const typename Format::Chunk chunk(args.rows, c);
      typename Format::Row sum;
      if (!local.template add_up<kLayout, kDType>(op, chunk, c > item.first_chunk, sum)) {
        if (!op.warp_goes_on()) return;
        break;  // its home is masked
      }
      if (c + 1 < item.end_chunk) local.load_first(args, c + 1);
      sum.write_lines(chunk.packs, op.row(item.home, op.group.rank, item.token) + chunk.first_unit, op.epoch);
    }
    if (index < num_items) local.template start<kLayout>(args, next, remembered);
  }
}

template <Layout kLayout, DType kDType, class Format, Peers kPeers>
EP_DEVICE void combine_in_format(const LlCombineArgs& args) {
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxTopk]);
  EP_SHARED(uint32_t, num_taken, [2]);
  const bool sends = args.phases & kLlSend, receives = args.phases & kLlReceive;
  const bool pushes = sends && dev::warp_idx() < args.push_warps;  // the others collect from the start
  const bool sends_weights = kLayout == Layout::expert_major && sends && leads();
  if (leads() && dev::lane_idx() == 0) {
    num_taken[0] = args.push_warps;
    num_taken[1] = 0;
  }
  // What the first steps need is got while the peers are awaited.
  const LsaTeam team = team_of<kPeers>(args);
  const uint32_t tokens_seen = most_tokens_seen(args, team);
  const TopkWeights weights(args, sends_weights ? dev::block_idx() : args.routing.tokens.most);
  LocalSum<Format> local;
  local.addends = addends[dev::warp_idx()];
  const Start start = begin(args, NoRemoteRanks<kPeers>{}, [&] {
    const ResultItem item(args, team, worker_idx());
    if (pushes) local.template start<kLayout>(args, item, Remembered(args, item));
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (sends_weights) send_weights(op, args, weights);
    if (pushes) push_sums<kLayout, kDType>(op, args, dev::max_warp(tokens_seen), {num_taken}, local);
    if (receives) {
      collect_sums<kDType, Format>(args, TeamRows<kPeers>{op}, {num_taken + 1}, local.addends);
      note_free_banks(op, NoRemoteRanks<kPeers>{});
    }
  }
  finish(op, args.routing, args.phases);
}

template <Layout kLayout, DType kDType, bool kScaled = false, Peers kPeers = Peers::team>
EP_DEVICE void combine(const LlCombineArgs& args) {
  combine_in_format<kLayout, kDType, typename FormatOf<kScaled>::Type, kPeers>(args);
}

}  // namespace nccl_ep::ll

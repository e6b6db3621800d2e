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

#include "ll/quantized_sums.cuh"
#include "ll/routing.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kCombineWarps = kLlCombineThreads / 32;

// A token's top-k row in shared memory.
struct TopkRow {
  uint64_t id[kMaxHits];
  float weight[kMaxHits];
  float sum[kMaxHits];

  // An expert that is repeated in the row was dispatched once; its weights add up in the first place.
  EP_DEVICE float sum_of(uint32_t k, uint32_t num_topk) const {
    float total = weight[k];
#pragma unroll 4
    for (uint32_t later = k + 1; later < num_topk; ++later) {
      if (id[later] == id[k]) total = dev::add(total, weight[later]);
    }
    return total;
  }
};

// A token's ids and weights, spread over a warp. Nothing waits for them yet.
struct TopkWeights {
  TopkIds ids;
  float weight[TopkIds::kPerLane] = {};

  EP_DEVICE TopkWeights(const LlCombineArgs& args, uint32_t token) : ids(args.routing, token) {
    if (token >= args.routing.tokens.most) return;
    const float* weights = args.topk_weights + uint64_t{token} * args.routing.num_topk;
#pragma unroll
    for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
      const uint32_t k = 32 * i + dev::lane_idx();
      if (k < args.routing.num_topk) weight[i] = dev::ld_nc(weights + k);
    }
  }
};

// A token's weights as a lane sends them: three a unit.
EP_DEVICE Unit make_weight_unit(const TopkWeights& given, uint32_t num_topk, uint32_t epoch) {
  EP_SHARED(TopkRow, row, [1]);
#pragma unroll
  for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
    row->id[32 * i + dev::lane_idx()] = given.ids.raw[i];
    row->weight[32 * i + dev::lane_idx()] = given.weight[i];
  }
  dev::sync_warp();
  for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) row->sum[k] = row->sum_of(k, num_topk);
  dev::sync_warp();
  Unit unit{{0, 0, 0}, epoch};
#pragma unroll
  for (uint32_t i = 0; i < 3; ++i) {
    const uint32_t k = 3 * dev::lane_idx() + i;
    if (k < num_topk) unit.word[i] = dev::bits_from_float(row->sum[k]);
  }
  return unit;
}

// Expert-major: sends the weights of this rank's tokens to the ranks of the team that they went to. The leaders call it;
// `weights` are of the first token.
template <Peers kPeers>
EP_DEVICE void send_weights(const Operation<kPeers>& op, const LlCombineArgs& args, TopkWeights weights) {
  const uint32_t num_topk = args.routing.num_topk, num_units = (num_topk + 2) / 3;
#pragma unroll 1
  for (uint32_t token = dev::block_idx(); token < num_tokens(args.routing.tokens);) {
    const TopkRanks ranks(op.group, args.routing, weights.ids);
    const Unit unit = make_weight_unit(weights, num_topk, op.epoch);
    for (uint32_t peer = op.team.first; peer < op.team.first + op.team.size; ++peer) {
      const bool goes = (ranks.bits_from(peer) & 1) && is_active(op, peer);
      if (goes && dev::lane_idx() < num_units) {
        dev::st_unit(op.route(peer, op.group.rank, token, dev::lane_idx()), unit);
      }
    }
    token += dev::num_blocks();
    weights = TopkWeights(args, token);
  }
}

// The rows that are added up for one token, in order, in the warp's shared memory.
struct Addend {
  const void* row;  // the caller's, or lines from another rank
  float weight;
  uint32_t k;  // expert-major: whose weight it gets; on the home rank, whose row it is
};

// Adds weight times row over what a lane has. kRows rows are in flight at a time; the order of the sum is that of the
// addends. It starts at -0, which changes nothing, whatever is added. fetch(first, count) gets the rows first ...
// first + count - 1 into `rows`. kRoundProducts: not only sums are rounded.
template <DType kDType, uint32_t kRows, bool kRoundProducts = false, class Fetch>
EP_DEVICE bool add_rows(const Addend* addends, uint32_t num_addends, LaneRow (&rows)[kRows], Fetch fetch,
                        LaneRow& result) {
  using Word = WordOf<kDType>;
  float sum[LaneRow::kStrips][4][Word::kSize];
#pragma unroll
  for (uint32_t i = 0; i < 4 * LaneRow::kStrips; ++i) {
#pragma unroll
    for (int j = 0; j < Word::kSize; ++j) sum[i / 4][i % 4][j] = num_addends > 0 ? -0.0f : 0.0f;
  }
  for (uint32_t first = 0; first < num_addends; first += kRows) {
    const uint32_t count = num_addends - first < kRows ? num_addends - first : kRows;
    if (!fetch(first, count)) return false;
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
          if constexpr (kRoundProducts) {
            total[j] = dev::add(total[j], dev::mul(weight, value[j]));
          } else {
            total[j] = dev::fma(weight, value[j], total[j]);
          }
        }
      }
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 4 * LaneRow::kStrips; ++i) result.word[i / 4][i % 4] = Word::pack(sum[i / 4][i % 4]);
  return true;
}

// The same of rows that travel quantized.
template <class Row, uint32_t kRows, class Fetch, class Sum>
EP_DEVICE bool add_rows(const Addend* addends, uint32_t num_addends, Row (&rows)[kRows], Fetch fetch, Sum& sum) {
  sum.clear(num_addends > 0 ? -0.0f : 0.0f);
  for (uint32_t first = 0; first < num_addends; first += kRows) {
    const uint32_t count = num_addends - first < kRows ? num_addends - first : kRows;
    if (!fetch(first, count)) return false;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r < count) sum.add(rows[r], addends[first + r].weight);
    }
  }
  return true;
}

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
  static constexpr uint32_t kHitsPerLane = kMaxHits / 32;
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

  // One look at a row's chunk: whether it has arrived. The whole warp calls it.
  template <class Chunk, class Row>
  EP_DEVICE bool read(uint32_t, const Chunk& chunk, const Addend& addend, Row& row) const {
    return row.read_lines(chunk.packs, static_cast<const Unit*>(addend.row) + chunk.first_unit, op.epoch);
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

// Waits for the same chunk of some ranks' rows. They are looked at together, since each look takes as long as the memory.
// Those of a rank that turns out to be lost are zero.
template <class Rows, class Chunk, class Row, uint32_t kRows>
EP_DEVICE bool await_rows(const Rows& all_rows, uint32_t token, const Chunk& chunk, const Addend* addends,
                          uint32_t count, Row (&rows)[kRows]) {
  Awaited awaited{Wait::combine_row, 0, token};
  uint32_t lost = 0;  // rows of ranks that were masked meanwhile
  const auto have_arrived = [&] {
    bool arrived = true;
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r >= count || (lost >> r & 1) || all_rows.read(token, chunk, addends[r], rows[r])) continue;
      arrived = false;
      awaited.what = all_rows.wait_for_rank(addends[r].k);
      awaited.peer = addends[r].k;
    }
    return arrived;
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

template <Layout kLayout, DType kDType, class Format, Peers kPeers>
EP_DEVICE void combine_in_format(const LlCombineArgs& args) {
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxHits]);
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

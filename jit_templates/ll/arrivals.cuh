// SPDX-License-Identifier: Apache-2.0
// The receiving side of routes.cuh: which rows come from whom, and where each goes.
#pragma once

#include "ll/lost_ranks.cuh"
#include "ll/payload.cuh"
#include "ll/routes.cuh"

namespace nccl_ep::ll {

// Every source's counts, in a block's shared memory, and in the expert-major layout where its rows begin in each
// expert's zone. All blocks make their own.
struct ArrivalTable {
  uint32_t num_ranks, num_experts;  // num_experts: 0 in the rank-major layout
  uint32_t* words;

  template <Layout kLayout>
  EP_DEVICE static ArrivalTable make(const LlGroupState& group, unsigned char* shared) {
    return {group.num_ranks, kLayout == Layout::expert_major ? group.num_local_experts : 0,
            reinterpret_cast<uint32_t*>(shared)};
  }
  EP_DEVICE unsigned char* end() const { return reinterpret_cast<unsigned char*>(first_row(num_ranks + 1, 0)); }

  EP_DEVICE uint32_t& has_all() const { return words[0]; }
  EP_DEVICE BlockQueue queue() const { return {words + 1}; }
  EP_DEVICE uint32_t& num_tokens(uint32_t source) const { return words[2 + source]; }
  EP_DEVICE uint32_t& num_rows(uint32_t source) const { return words[2 + num_ranks + source]; }
  EP_DEVICE uint32_t& is_incomplete(uint32_t source) const { return words[2 + 2 * num_ranks + source]; }  // with masks
  // Of `source` in an expert's zone; one behind the last source: how many rows the expert has.
  EP_DEVICE uint32_t* first_row(uint32_t source, uint32_t expert) const {
    return words + 2 + 3 * num_ranks + source * num_experts + expert;
  }
  // A thread of the leader calls it, before begin().
  EP_DEVICE void clear() const {
    has_all() = 1;
    *queue().num_taken = 0;
  }
  // The leader calls it, before begin(), in a group with masks.
  EP_DEVICE void clear_incomplete() const {
    for (uint32_t source = dev::lane_idx(); source < num_ranks; source += 32) is_incomplete(source) = 0;
  }
  EP_DEVICE uint32_t count_units() const { return 1 + static_cast<uint32_t>(div_up(num_experts, 3)); }  // of a source
  EP_DEVICE void take(uint32_t source, uint32_t number, const Unit& unit) const {
    if (number == 0) {
      num_tokens(source) = unit.word[0];
      num_rows(source) = unit.word[1];
      return;
    }
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      const uint32_t expert = 3 * (number - 1) + j;
      if (expert < num_experts) *first_row(source + 1, expert) = unit.word[j];
    }
  }
  EP_DEVICE uint32_t most_tokens() const {
    uint32_t most = 0;
    for (uint32_t source = 0; source < num_ranks; ++source) {
      if (num_tokens(source) > most) most = num_tokens(source);
    }
    return most;
  }
  EP_DEVICE uint32_t most_rows() const {
    uint32_t most = 0;
    for (uint32_t source = 0; source < num_ranks; ++source) {
      if (num_rows(source) > most) most = num_rows(source);
    }
    return most;
  }
};

// The counts of the sources in the team.
template <Peers kPeers>
struct TeamCounts {
  const Operation<kPeers>& op;

  EP_DEVICE uint32_t num_sources() const { return op.team.size; }
  EP_DEVICE uint32_t source(uint32_t i) const { return op.team.first + i; }
  EP_DEVICE bool await(uint32_t source, uint32_t number, Unit& unit) const {
    return op.wait_for_unit({number == 0 ? Wait::token_counts : Wait::expert_counts, source, 0},
                            op.counts(op.group.rank, source, number), unit);
  }
  EP_DEVICE bool look(uint32_t source, uint32_t number, Unit& unit) const {
    return op.has_arrived(op.counts(op.group.rank, source, number), unit);
  }
};

// A group with masks: takes the counts of a source, which another block has seen, or none.
template <class Counts>
EP_DEVICE void take_all(const Counts& counts, const ArrivalTable& table, uint32_t source, bool is_present) {
#pragma unroll 1
  for (uint32_t number = 0; number < table.count_units(); ++number) {
    Unit unit{};
    while (is_present && !counts.look(source, number, unit)) dev::pause();
    table.take(source, number, unit);
  }
}

// In a group with masks all blocks agree whose counts there are. All warps of the team call it.
template <class Counts>
EP_DEVICE bool read_counts_of_present(const Counts& counts, const ArrivalTable& table, const WarpTeam& team) {
  const auto& op = counts.op;
  const uint32_t units = table.count_units(), num_sources = counts.num_sources();
  bool ok = true;
  for (uint32_t i = team.thread_idx(); ok && i < num_sources * units; i += team.num_threads()) {
    const uint32_t source = counts.source(i / units), number = i % units;
    Unit unit;
    if (is_active(op, source) && counts.await(source, number, unit)) {
      table.take(source, number, unit);
    } else {
      dev::st_relaxed<dev::Scope::block>(&table.is_incomplete(source), 1u);
      ok = op.goes_on();
    }
  }
  team.sync(kReceiversBarrier);
  for (uint32_t i = team.thread_idx(); i < num_sources; i += team.num_threads()) {
    const uint32_t source = counts.source(i);
    if (source == op.group.rank) continue;
    const bool is_complete = table.is_incomplete(source) == 0, is_present = settle(op, source, is_complete);
    if (!is_complete || !is_present) take_all(counts, table, source, is_present);
  }
  return ok;
}

// Waits for the counts of all these sources and puts them into the table. All warps of the team call it.
template <Peers kPeers, class Counts>
EP_DEVICE bool read_counts(const Counts& counts, const ArrivalTable& table, const WarpTeam& team) {
  if constexpr (has_masks(kPeers)) return read_counts_of_present(counts, table, team);
  const uint32_t units = table.count_units();  // of a source
  bool ok = true;
  for (uint32_t i = team.thread_idx(); ok && i < counts.num_sources() * units; i += team.num_threads()) {
    const uint32_t source = counts.source(i / units), number = i % units;
    Unit unit;
    ok = counts.await(source, number, unit);
    table.take(source, number, unit);
  }
  return ok;
}

// Makes the table: read() puts the counts of all sources into it. All warps of the team call it, and may use it then.
template <class Read>
EP_DEVICE void fill(const ArrivalTable& table, const WarpTeam& team, Read read) {
  if (!read()) dev::st_relaxed<dev::Scope::block>(&table.has_all(), 0u);
  team.sync(kReceiversBarrier);
  for (uint32_t expert = team.thread_idx(); expert < table.num_experts; expert += team.num_threads()) {
    uint32_t rows = 0;
    *table.first_row(0, expert) = 0;
    for (uint32_t source = 1; source <= table.num_ranks; ++source) {
      rows += *table.first_row(source, expert);
      *table.first_row(source, expert) = rows;
    }
  }
  team.sync(kReceiversBarrier);
}

// A chunk of a row that a warp receives.
struct Arrival {
  uint32_t source, token, chunk;
};

// What a warp knows of an arrival, besides its routes in shared memory.
struct Arrived {
  bool ok;  // nothing timed out
  uint32_t num_hits;
  uint32_t row;  // the row's number among the source's rows for this rank
};

// Waits for a token's routes and, if it has any hits, for one chunk of its row; leaves them in `routes` and `row`. Both
// are looked at together, since each look takes as long as the memory. Own rows are where the caller has them, unless they
// are quantized. The whole warp calls it: each lane watches a hit; further hits are read afterwards.
template <bool kScaled, Peers kPeers>
EP_DEVICE Arrived await_arrival(const Operation<kPeers>& op, const LlDispatchArgs& args, const Arrival& arrival,
                                const Chunk& chunk, Route* routes, LaneRow& row) {
  const uint32_t rank = op.group.rank, lane = dev::lane_idx(), source = arrival.source, token = arrival.token;
  const bool own = source == rank && !quantizes<kScaled>(args);
  const Unit* address = op.route(rank, source, token, lane < args.routing.num_topk ? lane : 0);
  const Unit* lines = op.row(rank, source, token) + chunk.first_unit;
  if (own) load_given<kScaled>(args, chunk, token, row);
  Unit unit;
  Arrived arrived{};
  Awaited awaited{Wait::token_routes, source, token};
  arrived.ok = op.template wait_for<true>(awaited, [&] {
    unit = dev::ld_unit(address);
    if (!own) row.read_lines(chunk.packs, lines);
    const bool has_row = own || dev::all(row.has_tags(chunk.packs, op.epoch));
    const uint32_t has_route = dev::ballot(unit.epoch == op.epoch);
    const Route first = Route::decode(unit);
    arrived.num_hits = dev::shfl(first.num_hits, 0);
    arrived.row = dev::shfl(first.row, 0);
    if (!(has_route & 1)) return false;
    const uint32_t needed = arrived.num_hits >= 32 ? ~0u : (1u << arrived.num_hits) - 1;
    const bool has_routes = (has_route & needed) == needed;
    awaited.what = has_routes ? Wait::dispatch_row : Wait::token_routes;
    return has_routes && (has_row || arrived.num_hits == 0);
  });
  if (!arrived.ok) return arrived;
  if (!own) row = row.lines_to_packs();
  if (lane < arrived.num_hits) routes[lane] = Route::decode(unit);
  for (uint32_t hit = 32 + lane; arrived.ok && hit < arrived.num_hits; hit += 32) {
    arrived.ok = op.wait_for_unit({Wait::token_routes, source, token}, op.route(rank, source, token, hit), unit);
    routes[hit] = Route::decode(unit);
  }
  arrived.ok = dev::all(arrived.ok);
  dev::sync_warp();
  return arrived;
}

}  // namespace nccl_ep::ll

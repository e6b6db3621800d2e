// SPDX-License-Identifier: Apache-2.0
// Moving rows, a warp at a time, in one of two ways (ll_layout.hpp says when).
//
// Chunks: a row is cut into chunks so that several warps share it and its first part is copied on while the rest is in
// flight. Whoever pushes a chunk into another rank's memory stores it, meets its warp (or waits for its bulk copies),
// and then releases the chunk's flag at system scope; whoever reads the chunk has acquired that flag.
//
// Units: each carries three words of the row and the epoch, so it needs neither flag nor fence.
#pragma once

#include "device/numeric.hpp"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

// Which way the rows of a rank with this many tokens travel.
EP_DEVICE bool goes_as_units(const LlGroupState& group, uint32_t num_tokens) {
  return num_tokens <= group.layout.unit_tokens();
}

// The packs [begin, end) of a row that a warp takes care of.
struct Chunk {
  uint32_t begin, end;

  EP_DEVICE Chunk(uint32_t packs_per_row, uint32_t packs_per_chunk, uint32_t chunk) : begin(chunk * packs_per_chunk) {
    const uint32_t rest = begin < packs_per_row ? packs_per_row - begin : 0;
    end = begin + (rest < packs_per_chunk ? rest : packs_per_chunk);
  }
};

// How the rows of a rank are cut: by the plan, or for units into what one warp holds at a time.
struct RowCut {
  uint32_t packs_per_row, packs_per_chunk, num_chunks;
  bool units;

  EP_DEVICE RowCut(const LlRowPlan& plan, bool as_units)
      : packs_per_row(plan.packs_per_row),
        packs_per_chunk(as_units ? kLlPacksPerWarp : plan.packs_per_chunk),
        num_chunks(as_units ? (plan.packs_per_row + kLlPacksPerWarp - 1) / kLlPacksPerWarp : plan.num_chunks),
        units(as_units) {}
  EP_DEVICE Chunk chunk(uint32_t i) const { return {packs_per_row, packs_per_chunk, i}; }
  EP_DEVICE uint64_t row_bytes() const { return uint64_t{packs_per_row} * 16; }
};

// The most chunks that any rank's rows are cut into.
EP_DEVICE uint32_t max_chunks(const LlRowPlan& plan) {
  const uint32_t as_units = RowCut(plan, true).num_chunks;
  return as_units > plan.num_chunks ? as_units : plan.num_chunks;
}

// Which packs of a chunk a lane holds at a time: neighbouring lanes take neighbouring packs, or, where units are read
// or written, three packs in a row each, which are four units.
template <bool kUnits>
struct LanePacks {
  static constexpr uint32_t kCount = 3;
  static constexpr uint32_t kPerWarp = kLlPacksPerWarp;
  static constexpr uint32_t kNumUnits = 4;
  uint32_t first, end;

  EP_DEVICE LanePacks(const Chunk& chunk, uint32_t begin)
      : first(begin + (kUnits ? kCount : 1) * dev::lane_idx()), end(chunk.end) {}
  EP_DEVICE uint32_t at(uint32_t i) const { return first + (kUnits ? 1 : 32) * i; }
  EP_DEVICE bool has(uint32_t i) const { return at(i) < end; }
  // Units of this lane; the last may be partly empty.
  EP_DEVICE uint32_t first_unit() const { return first / 3 * kNumUnits; }
  EP_DEVICE bool has_unit(uint32_t i) const { return first < end && 3 * i < 4 * (end - first); }
};

template <bool kUnits>
struct LaneBatch {
  Pack pack[LanePacks<kUnits>::kCount];

  EP_DEVICE void load(const LanePacks<kUnits>& packs, const unsigned char* row) {
#pragma unroll
    for (uint32_t i = 0; i < packs.kCount; ++i) {
      if (packs.has(i)) pack[i] = dev::ld(reinterpret_cast<const Pack*>(row) + packs.at(i));
    }
  }
  EP_DEVICE void store(const LanePacks<kUnits>& packs, unsigned char* row) const {
#pragma unroll
    for (uint32_t i = 0; i < packs.kCount; ++i) {
      if (packs.has(i)) dev::st(reinterpret_cast<Pack*>(row) + packs.at(i), pack[i]);
    }
  }
  // Waits for the lane's units of a row and takes the packs out of them.
  EP_DEVICE bool load_units(const Operation& op, Awaited awaited, const LanePacks<true>& packs, const Unit* row) {
    Unit unit[packs.kNumUnits];
    const bool ok = wait_for(op.group, op.epoch, awaited, [&] {
      bool arrived = true;
#pragma unroll
      for (uint32_t i = 0; i < packs.kNumUnits; ++i) {
        if (packs.has_unit(i)) unit[i] = dev::ld_unit(row + packs.first_unit() + i);
      }
#pragma unroll
      for (uint32_t i = 0; i < packs.kNumUnits; ++i) {
        if (packs.has_unit(i)) arrived &= unit[i].epoch == op.epoch;
      }
      return arrived;
    });
#pragma unroll
    for (uint32_t word = 0; word < 12; ++word) pack[word / 4].word[word % 4] = unit[word / 3].word[word % 3];
    return ok;
  }
  EP_DEVICE void store_units(const LanePacks<true>& packs, Unit* row, uint32_t epoch) const {
#pragma unroll
    for (uint32_t i = 0; i < packs.kNumUnits; ++i) {
      Unit unit{{0, 0, 0}, epoch};
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) unit.word[j] = pack[(3 * i + j) / 4].word[(3 * i + j) % 4];
      if (packs.has_unit(i)) dev::st_unit(row + packs.first_unit() + i, unit);
    }
  }
};

// Waits for a chunk that another rank pushes into this rank's memory. The whole warp calls it.
EP_DEVICE bool await_chunk(const Operation& op, Wait what, uint32_t source, uint32_t token, uint32_t chunk) {
  bool ok = true;
  if (dev::lane_idx() == 0) {
    const uint32_t* flag = op.flag(op.group.rank, source, token, chunk);
    ok = wait_acquire(op.group, op.epoch, {what, source, token}, flag,
                      [&](uint32_t value) { return value == op.epoch; });
  }
  ok = dev::all(ok);
  dev::sync_warp();
  return ok;
}

}  // namespace nccl_ep::ll

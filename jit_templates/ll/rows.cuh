// SPDX-License-Identifier: Apache-2.0
// Moving rows, a warp at a time, in one of two ways (ll_layout.hpp says when).
//
// Chunks: a row is cut into chunks so that several warps share it and its first part is copied on while the
// rest is in flight. Who pushes chunks into another rank's memory meets its warp, fences at system scope and
// raises their flags (publish_pushes); who reads a chunk has acquired its flag.
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

  EP_DEVICE Chunk(const LlRowPlan& plan, uint32_t chunk) : begin(chunk * plan.packs_per_chunk) {
    const uint32_t rest = plan.packs_per_row - begin;
    end = begin + (rest < plan.packs_per_chunk ? rest : plan.packs_per_chunk);
  }
};

EP_DEVICE uint64_t row_bytes(const LlRowPlan& plan) { return uint64_t{plan.packs_per_row} * 16; }

// Twelve words a lane of a row, from some pack on: three packs of neighbouring lanes side by side, or, where
// units are read or written, four units side by side. Both ways every access of a warp covers consecutive
// bytes.
template <bool kUnits>
struct LaneWords {
  static constexpr uint32_t kCount = 12;
  static constexpr uint32_t kPacksPerWarp = kLlPacksPerWarp;
  static constexpr uint32_t kPieces = kUnits ? 4 : 3;
  static constexpr uint32_t kWordsPerPiece = kCount / kPieces;
  uint32_t first, end;  // pieces of the row: this lane's first, and behind the chunk's last

  EP_DEVICE LaneWords(const Chunk& chunk, uint32_t begin_pack)
      : first(pieces(begin_pack) + dev::lane_idx()), end(pieces(chunk.end)) {}
  EP_DEVICE uint32_t at(uint32_t piece) const { return first + 32 * piece; }
  EP_DEVICE bool has(uint32_t piece) const { return at(piece) < end; }
  // Only the last unit of a row may be partly empty.
  EP_DEVICE static uint32_t pieces(uint32_t packs) { return kUnits ? (4 * packs + 2) / 3 : packs; }
};

template <bool kUnits>
struct LaneBatch {
  using Words = LaneWords<kUnits>;
  uint32_t word[Words::kCount];

  EP_DEVICE void load(const Words& words, const unsigned char* row, uint32_t words_per_row) {
#pragma unroll
    for (uint32_t i = 0; i < Words::kPieces; ++i) {
      if (!words.has(i)) continue;
      if constexpr (kUnits) {
#pragma unroll
        for (uint32_t j = 0; j < 3; ++j) {
          const uint32_t at = 3 * words.at(i) + j;
          if (at < words_per_row) word[3 * i + j] = dev::ld(reinterpret_cast<const uint32_t*>(row) + at);
        }
      } else {
        const Pack pack = dev::ld(reinterpret_cast<const Pack*>(row) + words.at(i));
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) word[4 * i + j] = pack.word[j];
      }
    }
  }

  EP_DEVICE void store(const Words& words, unsigned char* row, uint32_t words_per_row) const {
#pragma unroll
    for (uint32_t i = 0; i < Words::kPieces; ++i) {
      if (!words.has(i)) continue;
      if constexpr (kUnits) {
#pragma unroll
        for (uint32_t j = 0; j < 3; ++j) {
          const uint32_t at = 3 * words.at(i) + j;
          if (at < words_per_row) dev::st(reinterpret_cast<uint32_t*>(row) + at, word[3 * i + j]);
        }
      } else {
        const Pack pack{{word[4 * i], word[4 * i + 1], word[4 * i + 2], word[4 * i + 3]}};
        dev::st(reinterpret_cast<Pack*>(row) + words.at(i), pack);
      }
    }
  }

  // Waits for the lane's units of a row.
  EP_DEVICE bool load_units(const Operation& op, Awaited awaited, const Words& words, const Unit* row) {
    static_assert(kUnits);
    Unit unit[Words::kPieces];
    const bool ok = wait_for(op.group, op.epoch, awaited, [&] {
      bool arrived = true;
#pragma unroll
      for (uint32_t i = 0; i < Words::kPieces; ++i) {
        if (words.has(i)) unit[i] = dev::ld_unit(row + words.at(i));
      }
#pragma unroll
      for (uint32_t i = 0; i < Words::kPieces; ++i) {
        if (words.has(i)) arrived &= unit[i].epoch == op.epoch;
      }
      return arrived;
    });
#pragma unroll
    for (uint32_t w = 0; w < Words::kCount; ++w) word[w] = unit[w / 3].word[w % 3];
    return ok;
  }

  EP_DEVICE void store_units(const Words& words, Unit* row, uint32_t epoch) const {
    static_assert(kUnits);
#pragma unroll
    for (uint32_t i = 0; i < Words::kPieces; ++i) {
      const Unit unit{{word[3 * i], word[3 * i + 1], word[3 * i + 2]}, epoch};
      if (words.has(i)) dev::st_unit(row + words.at(i), unit);
    }
  }
};

// Between a warp's pushes and the flags that its lanes then raise with relaxed stores. A fence waits for all
// stores that its multiprocessor has under way, so it comes once, behind all chunks of the warp.
EP_DEVICE void publish_pushes() {
  dev::sync_warp();
  dev::fence<dev::Scope::system>();
}

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

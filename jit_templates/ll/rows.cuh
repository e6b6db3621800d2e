// SPDX-License-Identifier: Apache-2.0
// Moving rows, a warp at a time: a chunk of up to three strips, each of which is one access of the warp.
//
// Between ranks rows travel as lines: 31 words and the epoch, so a line needs neither flag nor fence; it says itself that
// it has arrived. Where a strip's 31 packs are among the 32 lanes, at either end and in the lines between:
//
//   lanes    0 - 6         7             8 - 14        15            16 - 22       23            24 - 30       31
//   packs    0 - 6         3 words, tag  7 - 13        3 words, tag  14 - 20       3 words, tag  21 - 27       3 words, tag
//
// The twelve words beside the tags are packs 28 - 30. A row's last strip has fewer lines if fewer suffice; the words
// beside the tags then follow the packs of those lines.
#pragma once

#include "device/numeric.hpp"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

// Which words of a row a lane takes care of in one strip.
struct LaneWords {
  uint32_t first, count;  // four, or beside a tag up to three
  bool in_line;           // the lane's line is used

  EP_DEVICE static bool has_tag() { return dev::lane_idx() % kUnitsPerLine == kUnitsPerLine - 1; }

  EP_DEVICE LaneWords(uint32_t packs_per_row, uint32_t strip) {
    constexpr uint32_t kPacks = kUnitsPerLine - 1;  // of a line, beside the words with the tag
    const uint32_t line = dev::lane_idx() / kUnitsPerLine, part = dev::lane_idx() % kUnitsPerLine;
    const uint32_t before = strip * kPacksPerStrip, most = has_tag() ? 3 : 4;
    if (before + kPacksPerStrip <= packs_per_row) {
      first = 4 * before + (has_tag() ? 4 * kPacks * kLinesPerStrip + 3 * line : 4 * (kPacks * line + part));
      count = most;
      in_line = true;
      return;
    }
    const uint32_t packs = before < packs_per_row ? packs_per_row - before : 0;
    const uint32_t num_lines = (4 * packs + kWordsPerLine - 1) / kWordsPerLine;
    const uint32_t word = has_tag() ? 4 * kPacks * num_lines + 3 * line : 4 * (kPacks * line + part);
    const uint32_t left = word < 4 * packs ? 4 * packs - word : 0;
    first = 4 * before + word;
    in_line = line < num_lines;
    count = !in_line ? 0 : left < most ? left : most;
  }
};

// What a lane holds of a chunk.
struct LaneRow {
  static constexpr uint32_t kStrips = LlRowPlan::kStripsPerChunk;
  uint32_t word[kStrips][4];

  // From rows that nobody writes while the kernel runs.
  EP_DEVICE void load(const LaneWords (&words)[kStrips], const unsigned char* row) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(row);
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      if (words[s].count == 4) {
        const Pack pack = dev::ld_nc(reinterpret_cast<const Pack*>(from + words[s].first));
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) word[s][i] = pack.word[i];
      } else {
#pragma unroll
        for (uint32_t i = 0; i < 3; ++i) word[s][i] = i < words[s].count ? dev::ld_nc(from + words[s].first + i) : 0;
        word[s][3] = 0;
      }
    }
  }

  EP_DEVICE void store(const LaneWords (&words)[kStrips], unsigned char* row) const {
    uint32_t* to = reinterpret_cast<uint32_t*>(row);
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      if (words[s].count == 4) {
        dev::st(reinterpret_cast<Pack*>(to + words[s].first), Pack{{word[s][0], word[s][1], word[s][2], word[s][3]}});
      } else {
#pragma unroll
        for (uint32_t i = 0; i < 3; ++i) {
          if (i < words[s].count) dev::st(to + words[s].first + i, word[s][i]);
        }
      }
    }
  }

  // One look at a chunk's lines, from its first on: whether all have arrived. The whole warp calls it.
  EP_DEVICE bool read_lines(const LaneWords (&words)[kStrips], const Unit* lines, uint32_t epoch) {
    bool arrived = true;
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      const Unit unit = dev::ld_line(lines + 32 * s + dev::lane_idx(), words[s].in_line);
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) word[s][i] = unit.word[i];
      word[s][3] = unit.epoch;
    }
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      if (LaneWords::has_tag() && words[s].in_line) arrived &= word[s][3] == epoch;
    }
    return dev::all(arrived);
  }

  EP_DEVICE void write_lines(const LaneWords (&words)[kStrips], Unit* lines, uint32_t epoch) const {
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      const Unit unit{{word[s][0], word[s][1], word[s][2]}, LaneWords::has_tag() ? epoch : word[s][3]};
      dev::st_line(lines + 32 * s + dev::lane_idx(), unit, words[s].in_line);
    }
  }
};

// A warp's chunk of rows of one size: which words each lane has, and where the lines begin.
struct Chunk {
  LaneWords words[LaneRow::kStrips];
  uint32_t first_unit;

  EP_DEVICE Chunk(const LlRowPlan& rows, uint32_t chunk) : Chunk(rows.packs_per_row, chunk * LaneRow::kStrips, 0) {}

 private:
  static_assert(LaneRow::kStrips == 3, "a constructor of as many strips");
  EP_DEVICE Chunk(uint32_t packs, uint32_t strip, int)
      : words{{packs, strip}, {packs, strip + 1}, {packs, strip + 2}}, first_unit(32 * strip) {}
};

}  // namespace nccl_ep::ll

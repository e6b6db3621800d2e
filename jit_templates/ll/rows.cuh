// SPDX-License-Identifier: Apache-2.0
// Moving rows, a warp at a time: a chunk of up to three strips, each of which is one access of the warp.
//
// Between ranks rows travel as lines: 31 words and the epoch, so a line needs neither flag nor fence; it says itself that
// it has arrived. In the caller's memory a row is packs of four words. A strip's 31 packs are among the 32 lanes:
//
//   lanes    0 - 6         7         8 - 14        15        16 - 22       23        24 - 30       31
//   packs    0 - 6         28        7 - 13        29        14 - 20       30        21 - 27       -
//   lines    the same      3 words,  the same      3 words,  the same      3 words,  the same      3 words,
//                          the tag                 the tag                 the tag                 the tag
//
// The twelve words beside the tags are those of packs 28 - 30. A row's last strip has fewer lines if fewer suffice; behind
// the packs of those lines come the ones whose words are beside the tags.
#pragma once

#include "device/numeric.hpp"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

// What a lane takes care of in one strip of a row.
struct LanePack {
  uint32_t pack;  // of the row
  bool exists;
  bool in_line;  // the lane's line is used

  EP_DEVICE static bool has_tag() { return dev::lane_idx() % kUnitsPerLine == kUnitsPerLine - 1; }

  EP_DEVICE LanePack(uint32_t packs_per_row, uint32_t strip) {
    constexpr uint32_t kPacks = kUnitsPerLine - 1;  // of a line, beside the words with the tag
    const uint32_t line = dev::lane_idx() / kUnitsPerLine, part = dev::lane_idx() % kUnitsPerLine;
    const uint32_t before = strip * kPacksPerStrip, left = before < packs_per_row ? packs_per_row - before : 0;
    const uint32_t packs = left < kPacksPerStrip ? left : kPacksPerStrip;
    const uint32_t num_lines = (4 * packs + kWordsPerLine - 1) / kWordsPerLine;
    const uint32_t index = has_tag() ? kPacks * num_lines + line : kPacks * line + part;
    in_line = line < num_lines;
    exists = in_line && index < packs;
    pack = before + index;
  }
};

// What a lane holds of a chunk of so many strips: packs, or what lines hold of them.
template <uint32_t kNumStrips>
struct LaneStrips {
  static constexpr uint32_t kStrips = kNumStrips;
  uint32_t word[kStrips][4];

  // From rows that nobody writes while the kernel runs.
  EP_DEVICE void load(const LanePack (&packs)[kStrips], const unsigned char* row) {
    load_by(packs, row, [](const Pack* from) { return dev::ld_nc(from); });
  }
  // From rows whose writing has ended, as far as the caller knows.
  EP_DEVICE void load_arrived(const LanePack (&packs)[kStrips], const unsigned char* row) {
    load_by(packs, row, [](const Pack* from) { return dev::ld(from); });
  }

  EP_DEVICE void store(const LanePack (&packs)[kStrips], unsigned char* row) const {
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      if (packs[s].exists) dev::st(reinterpret_cast<Pack*>(row) + packs[s].pack, pack(s));
    }
  }

  EP_DEVICE Pack pack(uint32_t s) const { return {{word[s][0], word[s][1], word[s][2], word[s][3]}}; }
  EP_DEVICE void set(uint32_t s, const Pack& pack) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) word[s][i] = pack.word[i];
  }

  // One look at a chunk's lines, from its first on, or if they are not wanted, at that one alone. Every lane reads: a load
  // that might not happen would be waited for before the next one. The whole warp calls it.
  EP_DEVICE void read_lines(const LanePack (&packs)[kStrips], const Unit* lines, bool wanted = true) {
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      const bool is_there = wanted && packs[s].in_line;
      const Unit unit = dev::ld_line(lines + (is_there ? 32 * s + dev::lane_idx() : dev::lane_idx() % kUnitsPerLine));
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) word[s][i] = unit.word[i];
      word[s][3] = unit.epoch;
    }
  }
  // Whether what this lane has read had arrived, as far as it has tags.
  EP_DEVICE bool has_tags(const LanePack (&packs)[kStrips], uint32_t epoch) const {
    bool arrived = true;
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      if (LanePack::has_tag() && packs[s].in_line) arrived &= word[s][3] == epoch;
    }
    return arrived;
  }

  EP_DEVICE void write_lines(const LanePack (&packs)[kStrips], Unit* lines, uint32_t epoch) const {
    const LaneStrips row = packs_to_lines();
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      const Unit unit{{row.word[s][0], row.word[s][1], row.word[s][2]}, LanePack::has_tag() ? epoch : row.word[s][3]};
      dev::st_line(lines + 32 * s + dev::lane_idx(), unit, packs[s].in_line);
    }
  }

  // Tagged lane m holds pack 28 + m, words 4m ... 4m + 3 of those beside the tags; its line has words 3m ... 3m + 2. So
  // it needs the last m words of the tagged lane before it. The whole warp calls it.
  EP_DEVICE LaneStrips packs_to_lines() const {
    const uint32_t lane = dev::lane_idx(), moved = LanePack::has_tag() ? lane / kUnitsPerLine : 0;
    LaneStrips row = *this;
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      uint32_t words[6] = {0, 0, 0, word[s][0], word[s][1], word[s][2]};
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) words[i] = dev::shfl(word[s][i + 1], (lane - kUnitsPerLine) % 32);
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) {
        row.word[s][i] = pick(moved, {words[i + 3], words[i + 2], words[i + 1], words[i]});
      }
    }
    return row;
  }

  // The other way: a tagged lane needs the first words of the one behind it.
  EP_DEVICE LaneStrips lines_to_packs() const {
    const uint32_t lane = dev::lane_idx(), moved = LanePack::has_tag() ? lane / kUnitsPerLine : 0;
    LaneStrips row;
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      uint32_t words[6] = {word[s][0], word[s][1], word[s][2], 0, 0, 0};
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) words[3 + i] = dev::shfl(word[s][i], (lane + kUnitsPerLine) % 32);
      if (!LanePack::has_tag()) words[3] = word[s][3];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        row.word[s][i] = pick(moved, {words[i], words[i + 1], words[i + 2], 0});
      }
    }
    return row;
  }

 private:
  template <class Load>
  EP_DEVICE void load_by(const LanePack (&packs)[kStrips], const unsigned char* row, Load load) {
#pragma unroll
    for (uint32_t s = 0; s < kStrips; ++s) {
      Pack pack{};
      if (packs[s].exists) pack = load(reinterpret_cast<const Pack*>(row) + packs[s].pack);
      set(s, pack);
    }
  }

  struct Choice {
    uint32_t value[4];
  };
  EP_DEVICE static uint32_t pick(uint32_t i, const Choice& of) {
    const uint32_t even = i & 2 ? of.value[2] : of.value[0], odd = i & 2 ? of.value[3] : of.value[1];
    return i & 1 ? odd : even;
  }
};

// A warp's chunk of rows of one size: which packs each lane has, and where the lines begin.
template <uint32_t... kStrip>
struct ChunkOfStrips {
  static constexpr uint32_t kStrips = sizeof...(kStrip);
  LanePack packs[kStrips];
  uint32_t first_unit;

  EP_DEVICE ChunkOfStrips(const LlRowPlan& rows, uint32_t chunk)
      : ChunkOfStrips(rows.packs_per_row, chunk * kStrips, 0) {}
  EP_DEVICE uint32_t first_pack() const { return first_unit / 32 * kPacksPerStrip; }

 private:
  EP_DEVICE ChunkOfStrips(uint32_t packs_per_row, uint32_t strip, int)
      : packs{{packs_per_row, strip + kStrip}...}, first_unit(32 * strip) {}
};

// Of all rows but those that travel as NVFP4.
using LaneRow = LaneStrips<LlRowPlan::kStripsPerChunk>;
using Chunk = ChunkOfStrips<0, 1, 2>;
static_assert(Chunk::kStrips == LaneRow::kStrips);

}  // namespace nccl_ep::ll

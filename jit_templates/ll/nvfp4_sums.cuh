// SPDX-License-Identifier: Apache-2.0
// Rows of combine that travel as NVFP4 (NCCL_EP_COMB_QUANT_NVFP4): from sums in float32, and back.
//
// A chunk is one strip: four packs that the first lanes have, and 27 packs of 32 numbers each. A lane's numbers have two
// scales of their own, two bytes, and all lanes' scales fill the four packs, in the order of the lanes:
//
//   lane        0                          1            2            3             4 ... 30
//   holds       1 / global scale,          scales of    scales of    scales of     32 numbers
//               scales of lanes 2 - 7      8 - 15       16 - 23      24 - 31
//
// 1 / global scale stands where the scales of lanes 0 and 1 would be, which have no numbers. What travels is a rank's sum
// over its experts, and its global scale is 1 / the sum of |weight| / global scale over the rows: so the sum's magnitudes
// are within what it says, if those of the rows are.
#pragma once

#include "common/nvfp4.cuh"
#include "ll/combine.cuh"

namespace nccl_ep::ll {

using StripRow = LaneStrips<1>;
using StripChunk = ChunkOfStrips<0>;

// What a lane's pack of a chunk is.
struct Nvfp4Pack {
  static constexpr uint32_t kElements = 32;

  bool has_numbers;
  uint32_t index;  // of the numbers, among all of the row

  EP_DEVICE explicit Nvfp4Pack(const LanePack& lane) {
    const uint32_t chunk = lane.pack / kPacksPerStrip, place = lane.pack % kPacksPerStrip;
    has_numbers = lane.exists && place >= LlNvfp4Chunk::kScalePacks;
    index = chunk * LlNvfp4Chunk::kNumberPacks + place - LlNvfp4Chunk::kScalePacks;
  }
};

// What a lane holds of a chunk of a bf16 row: the elements of its numbers.
struct WideStrip {
  static constexpr uint32_t kPacks = Nvfp4Pack::kElements * sizeof(uint16_t) / sizeof(Pack);
  Pack pack[kPacks];

  EP_DEVICE void load(const LanePack (&packs)[1], const unsigned char* row) {
    const Nvfp4Pack part(packs[0]);
#pragma unroll
    for (uint32_t i = 0; i < kPacks; ++i) {
      pack[i] = {};
      if (part.has_numbers) pack[i] = dev::ld_nc(reinterpret_cast<const Pack*>(row) + kPacks * part.index + i);
    }
  }
};

// The sum of a chunk.
struct Nvfp4Sum {
  static constexpr uint32_t kElements = Nvfp4Pack::kElements;
  const StripChunk& chunk;
  float value[kElements];

  EP_DEVICE explicit Nvfp4Sum(const StripChunk& of) : chunk(of) {}

  EP_DEVICE void clear(float to) {
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) value[i] = to;
  }

  // Rows of the caller.
  EP_DEVICE void add(const WideStrip& row, float weight) {
    using Word = WordOf<DType::bf16>;
#pragma unroll
    for (uint32_t i = 0; i < kElements; i += 2) {
      float element[Word::kSize];
      Word::unpack(row.pack[i / 8].word[i / 2 % 4], element);
      value[i] = dev::fma(weight, element[0], value[i]);
      value[i + 1] = dev::fma(weight, element[1], value[i + 1]);
    }
  }

  // Rows that have arrived, as lines. The whole warp calls it.
  EP_DEVICE void add(const StripRow& lines, float) {
    const StripRow row = lines.lines_to_packs();
    const float inverse = dev::float_from_bits(dev::shfl(row.word[0][0], 0));
    float scale[2];
    dev::floats_from_e4m3x2(scales_of_lane(row), scale[0], scale[1]);
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      float number[8];
      dev::floats_from_e2m1x8(row.word[0][w], number);
      const float product = dev::mul(scale[w / 2], inverse);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) value[8 * w + i] = dev::fma(product, number[i], value[8 * w + i]);
    }
  }

  // For the way home, as packs. The whole warp calls it.
  EP_DEVICE StripRow quantized(const GlobalScale& global) const {
    uint32_t magnitude[2] = {0, 0};
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) {
      const uint32_t of_element = dev::bits_from_float(value[i]) & 0x7fffffff;
      if (of_element > magnitude[i / kNvfp4Group]) magnitude[i / kNvfp4Group] = of_element;
    }
    const Nvfp4Scales scales = Nvfp4Scales::of(magnitude, global.scale);
    StripRow row;
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      float number[8];
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) number[i] = dev::mul(value[8 * w + i], scales.inverse[w / 2]);
      row.word[0][w] = dev::e2m1x8_from_floats(number);
    }
    put_scales(scales.bits, global.inverse, row);
    return row;
  }

  // At home, rounded once.
  EP_DEVICE void store(unsigned char* to) const {
    using Word = WordOf<DType::bf16>;
    const Nvfp4Pack part(chunk.packs[0]);
    if (!part.has_numbers) return;
#pragma unroll
    for (uint32_t i = 0; i < WideStrip::kPacks; ++i) {
      Pack pack;
#pragma unroll
      for (uint32_t w = 0; w < 4; ++w) {
        const float element[Word::kSize] = {value[8 * i + 2 * w], value[8 * i + 2 * w + 1]};
        pack.word[w] = Word::pack(element);
      }
      dev::st(reinterpret_cast<Pack*>(to) + WideStrip::kPacks * part.index + i, pack);
    }
  }

 private:
  EP_DEVICE static void put_scales(uint32_t mine, float inverse, StripRow& row) {
    const uint32_t lane = dev::lane_idx();
    const uint32_t of_two = mine | dev::shfl_xor(mine, 1) << 16;  // in even lanes
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = dev::shfl(of_two, (8 * lane + 2 * i) % 32);
      if (lane < LlNvfp4Chunk::kScalePacks) row.word[0][i] = word;
    }
    if (lane == 0) row.word[0][0] = dev::bits_from_float(inverse);
  }
  EP_DEVICE static uint16_t scales_of_lane(const StripRow& row) {
    const uint32_t lane = dev::lane_idx();
    uint32_t of_two = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = dev::shfl(row.word[0][i], lane / 8);
      if (lane / 2 % 4 == i) of_two = word;
    }
    return static_cast<uint16_t>(of_two >> 16 * (lane % 2));
  }
};

// The global scales of the caller's rows that belong to a received token, spread over a warp as Remembered is.
struct GlobalScales {
  float given[Remembered::kHitsPerLane];

  EP_DEVICE void load(const LlCombineArgs& args, uint32_t i, uint64_t row, bool exists) {
    if (exists) given[i] = dev::ld_nc(args.global_scales + row);
  }

  // Of the rows' sum. Lanes add up in a fixed order. The whole warp calls it.
  EP_DEVICE GlobalScale of_sum(const Addend* addends, uint32_t num_rows) const {
    float inverse = 0;
#pragma unroll
    for (uint32_t i = 0; i < Remembered::kHitsPerLane; ++i) {
      const uint32_t row = 32 * i + dev::lane_idx();
      if (row >= num_rows) continue;
      const uint32_t magnitude = dev::bits_from_float(addends[row].weight) & 0x7fffffff;
      inverse = dev::fma(dev::float_from_bits(magnitude), inverse_of_global_scale(given[i]), inverse);
    }
#pragma unroll
    for (uint32_t other = 16; other > 0; other /= 2) inverse = dev::add(inverse, dev::shfl_xor(inverse, other));
    return GlobalScale::of_inverse(inverse);
  }
};

struct Nvfp4Rows {
  static constexpr bool kQuantizes = true;
  static constexpr uint32_t kLocalRows = 2, kArrivingRows = 8;
  using Chunk = StripChunk;
  using CallerRow = WideStrip;
  using Row = StripRow;
  using Sum = Nvfp4Sum;
  using RowScales = GlobalScales;
  EP_DEVICE static uint64_t row_bytes(const LlCombineArgs& args) {
    return uint64_t{args.num_groups} * kNvfp4Group * sizeof(uint16_t);
  }
};

}  // namespace nccl_ep::ll

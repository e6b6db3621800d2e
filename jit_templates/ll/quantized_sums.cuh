// SPDX-License-Identifier: Apache-2.0
// Rows of combine that travel as E4M3 numbers with scales (NCCL_EP_COMB_QUANT_FP8): from sums in float32, and back.
//
// Here each chunk has the scales of its own groups, since a warp that has added up a chunk knows no other sums: three
// packs of scales, then eleven groups, and two packs that nobody uses. A lane has the sixteen elements of a pack of numbers
// in each strip.
#pragma once

#include "common/quantize.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

// What a pack of a chunk is to a lane.
struct SumPack {
  static constexpr uint32_t kNoGroup = 31;  // no chunk has so many

  bool is_scales;
  bool has_numbers;
  uint32_t group;  // of the chunk
  uint32_t index;  // of the numbers, among all of the row

  EP_DEVICE explicit SumPack(const LanePack& lane) {
    constexpr uint32_t kPacks = kPacksPerStrip * LaneRow::kStrips;
    const uint32_t chunk = lane.pack / kPacks, place = lane.pack % kPacks, number = place - LlSumChunk::kScalePacks;
    is_scales = place < LlSumChunk::kScalePacks;
    has_numbers = lane.exists && number < LlSumChunk::kNumberPacks;
    group = has_numbers ? number / LlSumChunk::kPacksPerGroup : kNoGroup;
    index = chunk * LlSumChunk::kNumberPacks + number;
  }
};

// What a lane holds of a chunk of a bf16 row: for each pack of numbers two packs.
struct WideRow {
  Pack pack[LaneRow::kStrips][2];

  EP_DEVICE void load(const LanePack (&packs)[LaneRow::kStrips], const unsigned char* row) {
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      const SumPack part(packs[s]);
      pack[s][0] = pack[s][1] = {};
      if (!part.has_numbers) continue;
      const Pack* from = reinterpret_cast<const Pack*>(row) + 2 * part.index;
      pack[s][0] = dev::ld_nc(from);
      pack[s][1] = dev::ld_nc(from + 1);
    }
  }
};

// Of a sum that says itself how large it is.
struct NoScale {};

// The sum of a chunk.
struct QuantizedSum {
  static constexpr uint32_t kElements = sizeof(Pack);
  const Chunk& chunk;
  float value[LaneRow::kStrips][kElements];

  EP_DEVICE explicit QuantizedSum(const Chunk& of) : chunk(of) {}

  EP_DEVICE void clear(float to) {
#pragma unroll
    for (uint32_t i = 0; i < kElements * LaneRow::kStrips; ++i) value[i / kElements][i % kElements] = to;
  }

  // Rows of the caller.
  EP_DEVICE void add(const WideRow& row, float weight) {
    using Word = WordOf<DType::bf16>;
#pragma unroll
    for (uint32_t i = 0; i < 8 * LaneRow::kStrips; ++i) {
      float element[Word::kSize], *total = value[i / 8] + 2 * (i % 8);
      Word::unpack(row.pack[i / 8][i / 4 % 2].word[i % 4], element);
      total[0] = dev::fma(weight, element[0], total[0]);
      total[1] = dev::fma(weight, element[1], total[1]);
    }
  }

  // Rows that have arrived, as lines. The whole warp calls it.
  EP_DEVICE void add(const LaneRow& lines, float) {
    const LaneRow row = lines.lines_to_packs();
    const float mine = scale_of_lane(row);
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      const float scale = dev::shfl(mine, SumPack(chunk.packs[s]).group);
#pragma unroll
      for (uint32_t i = 0; i < kElements; i += 2) {
        float number[2];
        dev::floats_from_e4m3x2(static_cast<uint16_t>(row.word[s][i / 4] >> 8 * (i % 4)), number[0], number[1]);
        value[s][i] = dev::fma(scale, number[0], value[s][i]);
        value[s][i + 1] = dev::fma(scale, number[1], value[s][i + 1]);
      }
    }
  }

  // For the way home, as packs. The whole warp calls it.
  EP_DEVICE LaneRow quantized(NoScale) const {
    const GroupScale mine = GroupScale::of(magnitude_of_lane(), false);
    LaneRow row;
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      const float inverse = dev::shfl(mine.inverse, SumPack(chunk.packs[s]).group);
#pragma unroll
      for (uint32_t w = 0; w < 4; ++w) {
        const float* element = value[s] + 4 * w;
        const uint32_t low = dev::e4m3x2_from_floats(dev::mul(element[0], inverse), dev::mul(element[1], inverse));
        const uint32_t high = dev::e4m3x2_from_floats(dev::mul(element[2], inverse), dev::mul(element[3], inverse));
        row.word[s][w] = low | high << 16;
      }
    }
    put_scales(mine, row);
    return row;
  }

  // At home, rounded once.
  EP_DEVICE void store(unsigned char* to) const {
    using Word = WordOf<DType::bf16>;
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      const SumPack part(chunk.packs[s]);
      if (!part.has_numbers) continue;
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        Pack pack;
#pragma unroll
        for (uint32_t w = 0; w < 4; ++w) {
          const float element[Word::kSize] = {value[s][8 * half + 2 * w], value[s][8 * half + 2 * w + 1]};
          pack.word[w] = Word::pack(element);
        }
        dev::st(reinterpret_cast<Pack*>(to) + 2 * part.index + half, pack);
      }
    }
  }

 private:
  // The largest magnitude of the chunk's group with this lane's number.
  EP_DEVICE uint32_t magnitude_of_lane() const {
    uint32_t most[LaneRow::kStrips], mine = 0;
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      most[s] = 0;
#pragma unroll
      for (uint32_t i = 0; i < kElements; ++i) {
        const uint32_t magnitude = dev::bits_from_float(value[s][i]) & 0x7fffffff;
        if (magnitude > most[s]) most[s] = magnitude;
      }
    }
#pragma unroll
    for (uint32_t group = 0; group < LlSumChunk::kGroups; ++group) {
      uint32_t of_group = 0;
#pragma unroll
      for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
        if (SumPack(chunk.packs[s]).group == group && most[s] > of_group) of_group = most[s];
      }
      of_group = dev::max_warp(of_group);
      if (dev::lane_idx() == group) mine = of_group;
    }
    return mine;
  }

  // Scales are in the packs of the first lanes, in the first strip: four in each.
  EP_DEVICE void put_scales(const GroupScale& mine, LaneRow& row) const {
    const uint32_t lane = dev::lane_idx();
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t scale = dev::bits_from_float(dev::shfl(mine.scale, (4 * lane + i) % 32));
      if (SumPack(chunk.packs[0]).is_scales) row.word[0][i] = scale;
    }
  }
  EP_DEVICE static float scale_of_lane(const LaneRow& row) {
    const uint32_t lane = dev::lane_idx();
    uint32_t scale = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = dev::shfl(row.word[0][i], lane / 4);
      if (lane % 4 == i) scale = word;
    }
    return dev::float_from_bits(scale);
  }
};

}  // namespace nccl_ep::ll

// SPDX-License-Identifier: Apache-2.0
// Rows that travel home as E4M3 numbers with scales: where everything lies, and how they are added up.
//
// A row on its way is blocks of sixteen groups, of which the last may have fewer: their scales in float32, in a line of their
// own, then the numbers. Two groups are a pair, and take turns: eight numbers of one, eight of the other. So a lane that loads sixteen bytes has two
// packs of bf16, and the packs of its warp are neighbours in both groups. A group that is left over has its numbers in order.
#pragma once

#include "common/quantize.cuh"
#include "ht/row_sums.cuh"

namespace nccl_ep::ht {

// Eight elements of a row on its way.
struct alignas(8) Numbers {
  uint32_t word[2];
};

// Elements of a row, and how many the whole row has.
struct QuantizedRow {
  static constexpr uint32_t kPair = 2 * kScaleGroup;
  uint32_t num_elements;

  // Where the block of an element begins.
  EP_DEVICE static uint32_t block(uint32_t element) {
    return quantized_bytes(element / kQuantizedBlock * kQuantizedBlock);
  }
  EP_DEVICE static uint32_t scale(uint32_t element) {
    return block(element) + element % kQuantizedBlock / kScaleGroup * static_cast<uint32_t>(sizeof(float));
  }
  // Where a pair's numbers begin, by an element of it.
  EP_DEVICE static uint32_t pair(uint32_t element) {
    return block(element) + kBlockScaleBytes + element % kQuantizedBlock / kPair * kPair;
  }
  // Whether the group of an element has no partner.
  EP_DEVICE bool is_alone(uint32_t element) const { return num_elements - element / kPair * kPair == kScaleGroup; }
  // Where eight elements lie, of which this is the first.
  EP_DEVICE uint32_t numbers(uint32_t element) const {
    const uint32_t in_pair = element % kPair;
    if (is_alone(element)) return pair(element) + in_pair;
    return pair(element) + element % kScaleGroup * 2 + in_pair / kScaleGroup * 8;
  }
};

// Numbers that a warp loads with one instruction.
constexpr uint32_t kStripNumbers = kStripBytes;
static_assert(kQuantizedBlock % kStripNumbers == 0 &&
              kQuantizedBlock / kScaleGroup * sizeof(float) <= kBlockScaleBytes);

// Sixteen numbers that a lane loads from a strip.
struct LaneNumbers {
  static constexpr uint32_t kLanesOfPair = QuantizedRow::kPair / 16;
  bool exist;
  uint32_t numbers, scales;  // where they lie; of what does not exist: where something does
  uint32_t first, second;    // elements: of the first eight, and of the others
  bool share_scale;

  // `begin`: of the strip, which need not exist if it is not the first one.
  EP_DEVICE LaneNumbers(const QuantizedRow& row, uint32_t begin) {
    const uint32_t at = dev::lane_idx() % kLanesOfPair;
    const uint32_t pair = begin + dev::lane_idx() / kLanesOfPair * QuantizedRow::kPair;
    share_scale = row.is_alone(pair);
    exist = pair < row.num_elements && !(share_scale && at >= kScaleGroup / 16);
    const uint32_t there = exist ? pair : begin < row.num_elements ? begin : begin - kStripNumbers;
    numbers = QuantizedRow::pair(there) + (exist ? 16 * at : 0);
    scales = QuantizedRow::scale(there);
    first = pair + (share_scale ? 16 : 8) * at;
    second = first + (share_scale ? 8 : kScaleGroup);
  }
};

// What a lane adds up at a time.
constexpr uint32_t kSumStrips = 2;
constexpr uint32_t kSumElements = kSumStrips * kStripNumbers;

struct LanePart {
  LaneNumbers strip[kSumStrips];

  EP_DEVICE LanePart(const QuantizedRow& row, uint32_t begin)
      : strip{LaneNumbers(row, begin), LaneNumbers(row, begin + kStripNumbers)} {}
};

struct QuantizedSum {
  float value[kSumStrips][16];

  // Adding to -0 changes nothing, whatever is added; without rows a sum is 0.
  EP_DEVICE explicit QuantizedSum(uint32_t num_rows) {
#pragma unroll
    for (uint32_t i = 0; i < 16 * kSumStrips; ++i) value[i / 16][i % 16] = num_rows > 0 ? -0.0f : 0.0f;
  }
  EP_DEVICE void add(uint32_t strip, const Pack& numbers, float first_scale, float second_scale) {
    float (&sum)[16] = value[strip];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      float number[2];
      dev::floats_from_e4m3x2(static_cast<uint16_t>(numbers.word[i / 2] >> 16 * (i % 2)), number[0], number[1]);
      const float scale = i < 4 ? first_scale : second_scale;
      sum[2 * i] = dev::fma(scale, number[0], sum[2 * i]);
      sum[2 * i + 1] = dev::fma(scale, number[1], sum[2 * i + 1]);
    }
  }
  // Eight elements as bf16.
  EP_DEVICE Pack round(uint32_t strip, uint32_t half) const {
    Pack pack;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float* two = value[strip] + 8 * half + 2 * i;
      pack.word[i] = WordOf<DType::bf16>::pack({two[0], two[1]});
    }
    return pack;
  }
};

struct alignas(8) ScalePair {
  float scale[2];
};

// Adds kRows rows, all of them on their way at a time.
template <uint32_t kRows>
EP_DEVICE void add_rows(QuantizedSum& sum, const Addend* addends, const LanePart& part) {
  Pack numbers[kRows][kSumStrips];
  ScalePair scales[kRows][kSumStrips];
#pragma unroll
  for (uint32_t i = 0; i < kRows * kSumStrips; ++i) {
    const uint32_t r = i / kSumStrips, s = i % kSumStrips;
    numbers[r][s] = dev::ld(reinterpret_cast<const Pack*>(addends[r] + part.strip[s].numbers));
    scales[r][s] = dev::ld(reinterpret_cast<const ScalePair*>(addends[r] + part.strip[s].scales));
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows * kSumStrips; ++i) {
    const uint32_t r = i / kSumStrips, s = i % kSumStrips;
    const float first = scales[r][s].scale[0], second = scales[r][s].scale[1];
    sum.add(s, numbers[r][s], first, part.strip[s].share_scale ? first : second);
  }
}

// Adds up some elements of rows, and calls store(sum, part) for what each lane has of them. The whole warp calls it.
template <class Store>
EP_DEVICE void sum_quantized(const Addend* addends, uint32_t num_addends, const Span& elements, Store store) {
#pragma unroll 1
  for (uint32_t begin = elements.begin; begin < elements.end; begin += kSumElements) {
    const LanePart part(QuantizedRow{elements.end}, begin);
    QuantizedSum sum(num_addends);
    add_all(sum, addends, num_addends, part);
    store(sum, part);
  }
}

// As a row of bf16.
EP_DEVICE void store_rounded(const QuantizedSum& sum, const LanePart& part, unsigned char* row) {
#pragma unroll
  for (uint32_t s = 0; s < kSumStrips; ++s) {
    const LaneNumbers& mine = part.strip[s];
    if (!mine.exist) continue;
    dev::st(reinterpret_cast<Pack*>(row) + mine.first / 8, sum.round(s, 0));
    dev::st(reinterpret_cast<Pack*>(row) + mine.second / 8, sum.round(s, 1));
  }
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// Adding up rows: many packs under way, fp32, each sum rounded once.
#pragma once

#include "device/numeric.hpp"
#include "ht/parties.cuh"

namespace nccl_ep::ht {

// A row that is added up with others; a list of them is in a warp's shared memory.
using Addend = const unsigned char*;

constexpr uint32_t kSumPacks = 4;  // of a row, under way in each lane

// Some packs of a row, a warp's width apart, as they are added up. Adding to -0 changes nothing, whatever is added.
template <DType kDType>
struct PackSum {
  using Word = WordOf<kDType>;
  float value[kSumPacks][4][Word::kSize];

  EP_DEVICE PackSum() {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kSumPacks; ++i) {
#pragma unroll
      for (int j = 0; j < Word::kSize; ++j) value[i / 4][i % 4][j] = -0.0f;
    }
  }
  // Of one row.
  EP_DEVICE explicit PackSum(const Pack (&packs)[kSumPacks]) {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kSumPacks; ++i) Word::unpack(packs[i / 4].word[i % 4], value[i / 4][i % 4]);
  }
  EP_DEVICE void add(const Pack (&packs)[kSumPacks]) {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kSumPacks; ++i) {
      float more[Word::kSize];
      Word::unpack(packs[i / 4].word[i % 4], more);
#pragma unroll
      for (int j = 0; j < Word::kSize; ++j) value[i / 4][i % 4][j] = dev::add(value[i / 4][i % 4][j], more[j]);
    }
  }
  EP_DEVICE void round(Pack (&packs)[kSumPacks]) const {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kSumPacks; ++i) packs[i / 4].word[i % 4] = Word::pack(value[i / 4][i % 4]);
  }
};

// Which bytes of rows.
struct Span {
  uint32_t begin, end;
};

// Adds kRows rows, all of them on their way at a time.
template <uint32_t kRows, DType kDType>
EP_DEVICE void add_rows(PackSum<kDType>& sum, const Addend* addends, const Span& span) {
  Pack packs[kRows][kSumPacks];
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
    for (uint32_t p = 0; p < kSumPacks; ++p) {
      const uint32_t at = span.begin + p * kStripBytes < span.end ? span.begin + p * kStripBytes : span.begin;
      packs[r][p] = dev::ld(reinterpret_cast<const Pack*>(addends[r] + at));
    }
  }
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) sum.add(packs[r]);
}

// Adds some rows to what a lane has, four at a time: a span of them, or what else `where` says.
template <class Sum, class Where>
EP_DEVICE void add_all(Sum& sum, const Addend* addends, uint32_t num_addends, const Where& where) {
  uint32_t first = 0;
#pragma unroll 1
  for (; num_addends - first >= 4; first += 4) add_rows<4>(sum, addends + first, where);
  if (num_addends - first == 3) add_rows<3>(sum, addends + first, where);
  if (num_addends - first == 2) add_rows<2>(sum, addends + first, where);
  if (num_addends - first == 1) add_rows<1>(sum, addends + first, where);
}

// Adds up a span of some rows into that of another; without rows it is zero. The whole warp calls it.
template <class Sum>
EP_DEVICE void sum_rows(const Addend* addends, uint32_t num_addends, const Span& span, unsigned char* out) {
#pragma unroll 1
  for (uint32_t begin = span.begin + 16 * dev::lane_idx(); begin < span.end; begin += kSumPacks * kStripBytes) {
    Sum sum;
    add_all(sum, addends, num_addends, Span{begin, span.end});
    Pack packs[kSumPacks] = {};
    if (num_addends > 0) sum.round(packs);
#pragma unroll
    for (uint32_t p = 0; p < kSumPacks; ++p) {
      const uint32_t at = begin + p * kStripBytes;
      if (at < span.end) dev::st(reinterpret_cast<Pack*>(out + at), packs[p]);
    }
  }
}

template <DType kDType>
EP_DEVICE void add_up(const Addend* addends, uint32_t num_addends, const Span& span, unsigned char* out) {
  sum_rows<PackSum<kDType>>(addends, num_addends, span, out);
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// Adding up some ranks' or experts' rows, in order.
#pragma once

#include "ll/quantized_sums.cuh"

namespace nccl_ep::ll {

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

}  // namespace nccl_ep::ll

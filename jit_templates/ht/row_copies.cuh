// SPDX-License-Identifier: Apache-2.0
// Copying rows inside a rank: many packs under way.
#pragma once

#include "ht/parties.cuh"

namespace nccl_ep::ht {

// Copies a row to the rows to(first) ... to(end - 1). The whole warp calls it.
template <class To>
EP_DEVICE void copy_row(const unsigned char* from, uint32_t row_bytes, uint32_t first, uint32_t end, To to) {
  constexpr uint32_t kPacks = 8;
#pragma unroll 1
  for (uint32_t begin = 16 * dev::lane_idx(); begin < row_bytes; begin += kPacks * kStripBytes) {
    Pack packs[kPacks];
#pragma unroll
    for (uint32_t p = 0; p < kPacks; ++p) {
      const uint32_t at = begin + p * kStripBytes;
      if (at < row_bytes) packs[p] = dev::ld(reinterpret_cast<const Pack*>(from + at));
    }
#pragma unroll 1
    for (uint32_t i = first; i < end; ++i) {
      unsigned char* row = to(i);
#pragma unroll
      for (uint32_t p = 0; p < kPacks; ++p) {
        const uint32_t at = begin + p * kStripBytes;
        if (at < row_bytes) dev::st(reinterpret_cast<Pack*>(row + at), packs[p]);
      }
    }
  }
}

// Fills a row. The whole warp calls it.
EP_DEVICE void fill_row(const Pack& with, uint32_t row_bytes, unsigned char* row) {
  for (uint32_t at = 16 * dev::lane_idx(); at < row_bytes; at += kStripBytes)
    dev::st(reinterpret_cast<Pack*>(row + at), with);
}

}  // namespace nccl_ep::ht

// SPDX-License-Identifier: Apache-2.0
// Scales beside rows, as they are copied.
//
// Where a row lies in a window or in a parcel, its scales lie behind it. Outputs have a tensor of their own for them, whose
// rows need not begin at multiples of 16 bytes: what cannot be copied in bulk is copied by the lanes, in words.
#pragma once

#include "device/numeric.hpp"
#include "ht/parties.cuh"

namespace nccl_ep::ht {

// A row and its scales, where they are or where they go.
template <class Byte>
struct ScaledRow {
  Byte* row;
  Byte* scales;
};

// Calls go(Word()) with the words that scales are copied in.
template <class Go>
EP_DEVICE void with_scale_word(const HtScales& scales, Go go) {
  if (scales.word_bytes == sizeof(Pack)) {
    go(Pack{});
  } else if (scales.word_bytes == sizeof(uint32_t)) {
    go(uint32_t{});
  } else {
    go(uint8_t{});
  }
}

// Calls visit(Word(), at) for this lane's words of a row of scales.
template <class Visit>
EP_DEVICE void for_each_scale_word(const HtScales& scales, Visit visit) {
  with_scale_word(scales, [&](auto word) {
#pragma unroll 1
    for (uint32_t at = sizeof(word) * dev::lane_idx(); at < scales.row_bytes; at += 32 * sizeof(word)) visit(word, at);
  });
}

// Copies the scales of a row to those of the rows to(first) ... to(end - 1). The whole warp calls it.
template <class To>
EP_DEVICE void copy_scales(const HtScales& scales, const unsigned char* from, uint32_t first, uint32_t end, To to) {
  for_each_scale_word(scales, [&](auto word, uint32_t at) {
    using Word = decltype(word);
    word = dev::ld(reinterpret_cast<const Word*>(from + at));
#pragma unroll 1
    for (uint32_t i = first; i < end; ++i) dev::st(reinterpret_cast<Word*>(to(i) + at), word);
  });
}

EP_DEVICE void clear_scales(const HtScales& scales, unsigned char* row) {
  for_each_scale_word(scales, [&](auto zero, uint32_t at) {
    using Word = decltype(zero);
    dev::st(reinterpret_cast<Word*>(row + at), zero);
  });
}

}  // namespace nccl_ep::ht

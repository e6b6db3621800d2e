// SPDX-License-Identifier: Apache-2.0
// Quantizing this rank's tokens before they leave, each once, however many ranks it goes to. Warps take a token each, in their
// order; whoever sends it waits for it.
#pragma once

#include "common/quantize.cuh"
#include "ht/scales.cuh"
#include "ht/tickets.cuh"

namespace nccl_ep::ht {

// Elements that a warp quantizes at a time: half of its lanes have a group.
constexpr uint32_t kStripElements = kStripBytes / 2;
constexpr uint32_t kElementsOfLane = kStripElements / 32;
constexpr uint32_t kGroupLanes = kScaleGroup / kElementsOfLane;
static_assert(2 * kGroupLanes == 32);

// Of so many quantized elements, which are bytes.
EP_DEVICE uint32_t scale_bytes(uint32_t num_elements) {
  return num_elements / kScaleGroup * static_cast<uint32_t>(sizeof(float));
}

// The largest of the magnitudes that the lanes of a group have. All lanes of the warp call it.
EP_DEVICE uint32_t max_of_group(uint32_t magnitude) {
#pragma unroll
  for (uint32_t other = 1; other < kGroupLanes; other *= 2) {
    const uint32_t theirs = dev::shfl_xor(magnitude, other);
    magnitude = magnitude > theirs ? magnitude : theirs;
  }
  return magnitude;
}

// What a lane has of a quantized strip.
struct QuantizedPack {
  struct alignas(8) Elements {
    uint32_t word[2];
  };
  Elements elements;
  float scale;  // of the group

  // All lanes call it, those behind a row's end with zeros.
  EP_DEVICE static QuantizedPack of(const Pack& pack, bool rounds) {
    uint32_t magnitude = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) magnitude = max_magnitude(magnitude, pack.word[i]);
    const GroupScale group = GroupScale::of(max_of_group(magnitude), rounds);
    return {
        {{quantize(pack.word[0], pack.word[1], group.inverse), quantize(pack.word[2], pack.word[3], group.inverse)}},
        group.scale};
  }
  // Stores what lies from an element of a row on, and the scale if it begins a group.
  EP_DEVICE void store(const ScaledRow<unsigned char>& to, uint32_t element) const {
    dev::st(reinterpret_cast<Elements*>(to.row + element), elements);
    if (element % kScaleGroup == 0) dev::st(reinterpret_cast<float*>(to.scales + scale_bytes(element)), scale);
  }
};

constexpr uint32_t kQuantizedPacks = 4;  // of a row, that each lane quantizes while as many more are on their way

// Loads a lane's packs from an element of a row of bf16 on, a warp's width apart; behind the row's end they are zero.
EP_DEVICE void load_packs(const unsigned char* row, uint32_t num_elements, uint32_t first,
                          Pack (&packs)[kQuantizedPacks]) {
#pragma unroll
  for (uint32_t p = 0; p < kQuantizedPacks; ++p) {
    const uint32_t element = first + p * kStripElements;
    packs[p] = element < num_elements ? dev::ld_nc(reinterpret_cast<const Pack*>(row + 2 * element)) : Pack{};
  }
}

// Quantizes a row of bf16 into another one. The whole warp calls it.
EP_DEVICE void quantize_row(const unsigned char* from, uint32_t num_elements, bool rounds,
                            const ScaledRow<unsigned char>& to) {
  const uint32_t mine = kElementsOfLane * dev::lane_idx();
  Pack packs[kQuantizedPacks];
  load_packs(from, num_elements, mine, packs);
#pragma unroll 1
  for (uint32_t begin = 0; begin < num_elements; begin += kQuantizedPacks * kStripElements) {
    Pack next[kQuantizedPacks];
    load_packs(from, num_elements, begin + kQuantizedPacks * kStripElements + mine, next);
#pragma unroll
    for (uint32_t p = 0; p < kQuantizedPacks; ++p) {
      const uint32_t element = begin + p * kStripElements + mine;
      const QuantizedPack quantized = QuantizedPack::of(packs[p], rounds);
      if (element < num_elements) quantized.store(to, element);
      packs[p] = next[p];
    }
  }
}

// This rank's tokens when they are quantized: in its window, first where its own rows would lie, which nobody sends, then behind
// the last row.
struct QuantizedTokens {
  Rows rows;
  uint32_t own_begin, own_end, end;

  EP_DEVICE QuantizedTokens(const HtGroupState& group, const RowRanges& ranges)
      : rows(window_rows(group, group.rank)),
        own_begin(ranges.begin[group.rank]),
        own_end(ranges.begin[group.rank + 1]),
        end(ranges.begin[group.num_ranks]) {}

  EP_DEVICE unsigned char* at(uint32_t token) const {
    const uint32_t slot = own_begin + token;
    return rows.at(slot < own_end ? slot : slot - own_end + end);
  }
};

// Quantizes this rank's tokens until others have begun with all that are left. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE void quantize_tokens(const Operation<kPeers>& op, const HtDispatchArgs& args,
                               const QuantizedTokens& quantized) {
  const HtQuantization& it = args.quantization;
  for (;;) {
    const uint32_t token = take_next(op, args.move);
    if (token >= args.handle.totals()->num_tokens) return;
    unsigned char* row = quantized.at(token);
    quantize_row(it.tokens + uint64_t{token} * 2 * args.move.row_bytes, args.move.row_bytes, it.rounds,
                 {row, row + args.move.row_bytes});
    dev::sync_warp();  // all of the row is written
    if (dev::lane_idx() == 0) dev::st_release<dev::Scope::gpu>(it.ready + token, op.epoch);
  }
}

// Waits for a token that is quantized: each thread for itself.
template <Peers kPeers>
EP_DEVICE bool await_quantized(const Operation<kPeers>& op, const HtQuantization& it, uint32_t token) {
  return op.wait_for({Wait::dispatch_row, op.group.rank, token},
                     [&] { return dev::ld_acquire<dev::Scope::gpu>(it.ready + token) == op.epoch; });
}

}  // namespace nccl_ep::ht

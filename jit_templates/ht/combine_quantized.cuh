// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine whose rows travel as E4M3 numbers with scales (NCCL_EP_COMB_QUANT_FP8): forward, of bf16 rows, in
// both layouts, in one launch.
//
// Parties: as in combine.cuh. What a rank has of a token, flat its row and expert-major the sum of its slots in fp32, is
// quantized in registers and pushed straight to its home slot; a rank's own go to its own window alike, so that sums do not
// depend on where the experts are. The other warps add number times scale in the order of the ranks, in fp32, and round
// once. Memory: the home ranks' windows. Waits: for peers to start, for rows to arrive.
//
// A row on its way is blocks of 512 elements, the last may have fewer: four scales in float32, then the numbers.
#pragma once

#include "ht/combine.cuh"
#include "ht/quantize.cuh"

namespace nccl_ep::ht {

// Eight elements of a row on its way: what a lane has of them.
using Numbers = QuantizedPack::Elements;

// Where a lane's elements and their scales lie in a row on its way, by the place that the first of its packs has in the row
// of bf16. The others follow a strip apart, two strips a block.
struct QuantizedPlaces {
  static constexpr uint32_t kScaleBytes = 4 * sizeof(float), kBlockBytes = kScaleBytes + 4 * kScaleGroup;
  static_assert(2 * kStripElements == 4 * kScaleGroup && kSumPacks % 2 == 0);
  uint32_t first;   // numbers
  uint32_t scales;  // the first one

  EP_DEVICE explicit QuantizedPlaces(uint32_t at) {
    const uint32_t block = at / (2 * kStripBytes) * kBlockBytes, element = at % kStripBytes / sizeof(uint16_t);
    first = block + kScaleBytes + element;
    scales = block + scale_bytes(element);
  }
  EP_DEVICE uint32_t numbers(uint32_t p) const { return first + p / 2 * kBlockBytes + p % 2 * kStripElements; }
  EP_DEVICE uint32_t scale(uint32_t p) const {
    return scales + p / 2 * kBlockBytes + p % 2 * scale_bytes(kStripElements);
  }
};

// The largest magnitude of a group. A lane has eight of its elements; all lanes of the warp call it.
EP_DEVICE uint32_t magnitude_of_group(const float (&element)[4][2]) {
  uint32_t most = 0;
#pragma unroll
  for (uint32_t i = 0; i < kElementsOfLane; ++i) {
    const uint32_t magnitude = dev::bits_from_float(element[i / 2][i % 2]) & 0x7fffffff;
    if (magnitude > most) most = magnitude;
  }
  return max_of_group(most);
}

// Adds up some rows and quantizes the sum on its way. The whole warp calls it.
EP_DEVICE void push_quantized(const Addend* addends, uint32_t num_addends, uint32_t row_bytes, unsigned char* to) {
#pragma unroll 1
  for (uint32_t first = 0; first < row_bytes; first += kSumPacks * kStripBytes) {
    const uint32_t begin = first + sizeof(Pack) * dev::lane_idx();
    PackSum<DType::bf16> sum;
    add_all<2>(sum, addends, num_addends, Span{begin < row_bytes ? begin : 0, row_bytes});
    const QuantizedPlaces places(begin);
#pragma unroll
    for (uint32_t p = 0; p < kSumPacks; ++p) {
      const GroupScale scale = GroupScale::of(magnitude_of_group(sum.value[p]), false);
      if (begin + p * kStripBytes >= row_bytes) continue;  // with all lanes of its group
      const float (&element)[4][2] = sum.value[p];
      dev::st(reinterpret_cast<Numbers*>(to + places.numbers(p)),
              Numbers{{quantize_floats(element[0], element[1], scale.inverse),
                       quantize_floats(element[2], element[3], scale.inverse)}});
      if (dev::lane_idx() % kGroupLanes == 0) dev::st(reinterpret_cast<float*>(to + places.scale(p)), scale.scale);
    }
  }
}

// Pushes the rows of all flows, this rank's among them.
EP_DEVICE void push_quantized_rows(const TeamOperation& op, const HtCombineArgs& args, Addend* addends,
                                   FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  FlagSender flags{queue};
  for_each_result(op, args, NoOthers<>(), true, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    const uint32_t num_rows = args.is_expert_major ? it.home.num_hits : 1;
    for (uint32_t i = dev::lane_idx(); i < num_rows; i += 32) {
      addends[i] = from.at(args.is_expert_major ? it.hit(args.handle, i) : it.row);
    }
    if (dev::lane_idx() == 0) flags.add(flag);
    dev::sync_warp();
    push_quantized(addends, num_rows, args.move.row_bytes, to);
    dev::sync_warp();  // what all lanes have stored is one lane's to publish
    if (dev::lane_idx() == 0) flags.finish(flags.num_added);
  });
  if (dev::lane_idx() == 0) flags.close();
}

// Some packs of a row, as PackSum, of rows that travel quantized.
struct QuantizedSum {
  float value[kSumPacks][4][2];

  EP_DEVICE QuantizedSum() {
#pragma unroll
    for (uint32_t i = 0; i < 8 * kSumPacks; ++i) value[i / 8][i / 2 % 4][i % 2] = -0.0f;
  }
  EP_DEVICE void add(uint32_t p, const Numbers& numbers, float scale) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float number[2];
      dev::floats_from_e4m3x2(static_cast<uint16_t>(numbers.word[i / 2] >> 16 * (i % 2)), number[0], number[1]);
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) value[p][i][j] = dev::fma(scale, number[j], value[p][i][j]);
    }
  }
  EP_DEVICE void round(Pack (&packs)[kSumPacks]) const {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kSumPacks; ++i)
      packs[i / 4].word[i % 4] = WordOf<DType::bf16>::pack(value[i / 4][i % 4]);
  }
};

// Adds kRows of them, all on their way at a time.
template <uint32_t kRows>
EP_DEVICE void add_rows(QuantizedSum& sum, const Addend* addends, const Span& span) {
  Numbers numbers[kRows][kSumPacks];
  float scale[kRows][kSumPacks];
  const QuantizedPlaces places(span.begin);
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
    for (uint32_t p = 0; p < kSumPacks; ++p) {
      const uint32_t there = span.begin + p * kStripBytes < span.end ? p : 0;
      numbers[r][p] = dev::ld(reinterpret_cast<const Numbers*>(addends[r] + places.numbers(there)));
      scale[r][p] = dev::ld(reinterpret_cast<const float*>(addends[r] + places.scale(there)));
    }
  }
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
    for (uint32_t p = 0; p < kSumPacks; ++p) sum.add(p, numbers[r][p], scale[r][p]);
  }
}

// Lists what has come for a token, in the order of the ranks. False: something did not come.
EP_DEVICE bool list_quantized(const TeamOperation& op, const HtCombineArgs& args, uint32_t token, Addend* addends,
                              uint32_t& num_addends) {
  const Rows arrived = window_rows(op.group, op.group.rank);
  dev::sync_warp();  // the addends are about to be replaced
  num_addends = *args.handle.num_dests(token);
  for (uint32_t first = 0; first < num_addends; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    const bool exists = i < num_addends;
    const uint32_t peer = exists ? args.handle.dest(token, i)->rank : 0;
    const uint64_t slot = op.group.layout.home_slot(token, exists ? i : 0);
    if (exists) addends[i] = arrived.at(slot);
    if (!await_rows(op, {Wait::combine_row, peer, token}, exists, slot)) return false;
  }
  dev::sync_warp();
  return true;
}

// Adds up this rank's tokens.
EP_DEVICE void collect_quantized(const TeamOperation& op, const HtCombineArgs& args, Addend* addends) {
  const SumItems items(args);
  for (;;) {
    const uint32_t i = dev::shfl(take_ticket(args.move.num_begun, 1), 0);
    if (i >= items.count) return;
    const uint32_t token = items.token(i);
    uint32_t num_addends = 0;
    if (!list_quantized(op, args, token, addends, num_addends)) return;
    unsigned char* out = args.out_tokens + uint64_t{token} * items.row_bytes;
    sum_rows<QuantizedSum>(addends, num_addends, items.span(i), out);
  }
}

EP_DEVICE void combine_quantized(const HtCombineArgs& args) {
  EP_SHARED(Addend, addends, [kMoveWarps][kHtMaxTopk]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const Start start = begin(args.group, NoRails());
  const TeamOperation op(args, start.epoch);
  const Crews crews(args.move, true);
  if (start.ready) {
    if (crews.pushers.has_me()) {
      push_quantized_rows(op, args, addends[dev::warp_idx()], queues[dev::warp_idx()]);
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    }
    dev::sync_warp();
    if (crews.have_me()) collect_quantized(op, args, addends[dev::warp_idx()]);
  }
  finish_pushing(op, args.move);
}

}  // namespace nccl_ep::ht

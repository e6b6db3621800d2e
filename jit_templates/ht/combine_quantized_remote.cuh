// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine whose rows travel as E4M3 numbers with scales, of a group of several LSA teams:
// combine_quantized.cuh inside the team, and combine_remote.cuh between teams.
//
// Parties: as there. The sum of a guest's results is quantized once more, with scales of its own, and its parcel has the form
// of any row on its way: at home it is added up as those of the team are, behind them.
#pragma once

#include "ht/combine_quantized.cuh"
#include "ht/combine_remote.cuh"

namespace nccl_ep::ht {

// The scales of what a lane has of a strip: of its first eight elements, and of the others. All lanes call it.
EP_DEVICE void scales_of(const QuantizedSum& sum, uint32_t strip, const LaneNumbers& mine, GroupScale (&scales)[2]) {
  float most[2] = {0, 0};
#pragma unroll
  for (uint32_t i = 0; i < 16; ++i) most[i / 8] = dev::max_abs(most[i / 8], mine.exist ? sum.value[strip][i] : 0.0f);
  if (mine.share_scale) most[0] = most[1] = dev::max_abs(most[0], most[1]);
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
#pragma unroll
    for (uint32_t other = 1; other < LaneNumbers::kLanesOfPair; other *= 2) {
      most[half] = dev::max_abs(most[half], dev::shfl_xor(most[half], other));
    }
    scales[half] = GroupScale::of(dev::bits_from_float(most[half]), false);
  }
}

// Stores a part of a sum into a row on its way. All lanes call it.
EP_DEVICE void store_quantized(const QuantizedSum& sum, const LanePart& part, unsigned char* row) {
#pragma unroll
  for (uint32_t s = 0; s < kSumStrips; ++s) {
    const LaneNumbers& mine = part.strip[s];
    GroupScale scales[2];
    scales_of(sum, s, mine, scales);
    if (!mine.exist) continue;
    Pack numbers;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float* four = sum.value[s] + 4 * i;
      numbers.word[i] = quantize_floats({four[0], four[1]}, {four[2], four[3]}, scales[i / 2].inverse);
    }
    dev::st(reinterpret_cast<Pack*>(row + mine.numbers), numbers);
    if (dev::lane_idx() % LaneNumbers::kLanesOfPair == 0) {
      dev::st(reinterpret_cast<ScalePair*>(row + mine.scales), ScalePair{{scales[0].scale, scales[1].scale}});
    }
  }
}

template <Peers kOthers>
struct QuantizedOtherSums : OtherSums<kOthers> {
  using Base = OtherSums<kOthers>;
  using Base::args, Base::kPeers, Base::send_guest;

  // Adds up a guest's results in this team for its home. The whole warp calls it.
  EP_DEVICE bool sum_quantized_guest(const Operation<kPeers>& op, uint32_t number, Addend* addends) const {
    const auto sum = [&](uint32_t, uint32_t num_addends, unsigned char* parcel) {
      const auto store = [&](const QuantizedSum& it, const LanePart& part) { store_quantized(it, part, parcel); };
      sum_quantized(addends, num_addends, {0, args.move.row_bytes / 2}, store);
      return true;
    };
    return send_guest(op, number, NoOwnResults(), addends, sum);
  }
};

template <Peers kPeers = Peers::teams>
EP_DEVICE void combine_quantized_remote(const HtCombineArgs& args) {
  combine_quantized_with(args, QuantizedOtherSums<kPeers>{{args, {args.group, args.network}}});
}

}  // namespace nccl_ep::ht

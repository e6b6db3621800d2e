// SPDX-License-Identifier: Apache-2.0
// What dispatch sends of a token: its row, and in kernels with kScaled its scales, which have a tensor of their own in the
// caller's memory. Between ranks both are one payload, pack behind pack:
//
//   rows as the caller has quantized them    all packs of the row, then the scales, filled up to whole packs
//   rows that are quantized here             32 packs of the row, a pack with their four scales, the next 32 packs ...
//
// So whoever quantizes a chunk of a payload looks at the groups of that chunk and at few others.
#pragma once

#include "common/quantize.cuh"
#include "common/ragged.cuh"
#include "ll/rows.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kPacksPerGroup = kScaleGroup / sizeof(Pack);     // of E4M3
constexpr uint32_t kGroupsPerBlock = sizeof(Pack) / sizeof(float);  // whose scales fill a pack
constexpr uint32_t kPacksPerBlock =
    kGroupsPerBlock * kPacksPerGroup;  // of the row, ahead of the pack with their scales

// What a pack of a payload is.
struct PayloadPack {
  bool is_scales;
  uint32_t index;  // among the packs of the row, or of its scales

  EP_DEVICE PayloadPack(const LlDispatchArgs& args, uint32_t pack) {
    if (args.scales.quantizes) {
      const uint32_t block = pack / (kPacksPerBlock + 1), number = pack % (kPacksPerBlock + 1);
      is_scales = number == kPacksPerBlock || pack + 1 == args.rows.packs_per_row;
      index = is_scales ? block : kPacksPerBlock * block + number;
    } else {
      is_scales = pack >= args.scales.row_packs;
      index = is_scales ? pack - args.scales.row_packs : pack;
    }
  }
  EP_DEVICE uint32_t offset() const { return static_cast<uint32_t>(sizeof(Pack)) * index; }
  // Of scales: those of a row need not fill their last pack.
  EP_DEVICE uint32_t num_bytes(const LlScales& scales) const {
    const uint32_t left = scales.bytes_per_row - offset();
    return left < sizeof(Pack) ? left : static_cast<uint32_t>(sizeof(Pack));
  }
};

// The scales of all groups that a chunk has to do with: a lane has one, from the first group of the block on that the
// chunk begins in.
struct ChunkScales {
  static constexpr uint32_t kMostGroups = 16;
  static_assert((kPacksPerBlock + LaneRow::kStrips * kPacksPerStrip - 1) / (kPacksPerBlock + 1) <
                    kMostGroups / kGroupsPerBlock,
                "wherever in a block a chunk begins");
  uint32_t first_group;
  GroupScale mine;

  // `row` is of bf16 elements.
  EP_DEVICE ChunkScales(const LlScales& scales, const Chunk& chunk, const unsigned char* row)
      : first_group(chunk.first_pack() / (kPacksPerBlock + 1) * kGroupsPerBlock) {
    struct alignas(8) Words {
      uint32_t word[2];
    };
    const uint32_t last_group = scales.row_packs / kPacksPerGroup - 1, lane = dev::lane_idx();
    uint32_t magnitude = 0;
#pragma unroll
    for (uint32_t i = 0; i < kMostGroups; ++i) {
      const uint32_t group = first_group + i < last_group ? first_group + i : last_group;
      const Words words = dev::ld_nc(reinterpret_cast<const Words*>(row) + 32 * group + lane);
      const uint32_t most = dev::max_warp(max_magnitude(max_magnitude(0, words.word[0]), words.word[1]));
      if (lane == i) magnitude = most;
    }
    mine = GroupScale::of(magnitude, scales.rounded);
  }

  // Of any group of the chunk. The whole warp calls them.
  EP_DEVICE float scale(uint32_t group) const { return dev::shfl(mine.scale, (group - first_group) % 32); }
  EP_DEVICE float inverse(uint32_t group) const { return dev::shfl(mine.inverse, (group - first_group) % 32); }
};

// A chunk of a token's payload, quantized. The whole warp calls it.
EP_DEVICE void load_quantized(const LlDispatchArgs& args, const Chunk& chunk, uint32_t token, LaneRow& row) {
  const Pack* elements = reinterpret_cast<const Pack*>(args.tokens) + 2 * uint64_t{token} * args.scales.row_packs;
  const ChunkScales scales(args.scales, chunk, reinterpret_cast<const unsigned char*>(elements));
#pragma unroll
  for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
    const PayloadPack part(args, chunk.packs[s].pack);
    Pack pack;
#pragma unroll
    for (uint32_t i = 0; i < kGroupsPerBlock; ++i) {
      pack.word[i] = dev::bits_from_float(scales.scale(kGroupsPerBlock * part.index + i));
    }
    const float inverse = scales.inverse(part.index / kPacksPerGroup);
    if (chunk.packs[s].exists && !part.is_scales) {
      const Pack* from = elements + 2 * part.index;
      pack = quantize(dev::ld_nc(from), dev::ld_nc(from + 1), inverse);
    }
    row.set(s, pack);
  }
}

// The same of rows that are quantized already.
EP_DEVICE void load_with_scales(const LlDispatchArgs& args, const Chunk& chunk, uint32_t token, LaneRow& row) {
  const Pack* packs = reinterpret_cast<const Pack*>(args.tokens) + uint64_t{token} * args.scales.row_packs;
  const unsigned char* scales = args.scales.from + uint64_t{token} * args.scales.bytes_per_row;
#pragma unroll
  for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
    const PayloadPack part(args, chunk.packs[s].pack);
    Pack pack{};
    if (chunk.packs[s].exists) {
      pack = part.is_scales ? load_ragged(scales + part.offset(), part.num_bytes(args.scales))
                            : dev::ld_nc(packs + part.index);
    }
    row.set(s, pack);
  }
}

// Whether dispatch quantizes rows. Then each is quantized once, before anything else is known, and this rank's own rows go
// through its window as those of others do.
template <bool kScaled>
EP_DEVICE bool quantizes(const LlDispatchArgs& args) {
  return kScaled && args.scales.quantizes;
}

// A chunk of a token's payload, from the caller's memory, where it is as it arrives. The whole warp calls it.
template <bool kScaled>
EP_DEVICE void load_given(const LlDispatchArgs& args, const Chunk& chunk, uint32_t token, LaneRow& row) {
  if constexpr (kScaled) {
    load_with_scales(args, chunk, token, row);
  } else {
    row.load(chunk.packs, args.tokens + token * args.rows.row_bytes());
  }
}

// A chunk of a token's payload, from the caller's memory. The whole warp calls it.
template <bool kScaled>
EP_DEVICE void load_payload(const LlDispatchArgs& args, const Chunk& chunk, uint32_t token, LaneRow& row) {
  if (quantizes<kScaled>(args)) {
    load_quantized(args, chunk, token, row);
  } else {
    load_given<kScaled>(args, chunk, token, row);
  }
}

// A chunk of a payload to where the caller wants it: the place of a row in the outputs.
template <bool kScaled>
EP_DEVICE void store_payload(const LlDispatchArgs& args, const Chunk& chunk, const LaneRow& row, uint64_t place) {
  if constexpr (!kScaled) {
    row.store(chunk.packs, args.out_tokens + place * args.rows.row_bytes());
  } else {
    Pack* packs = reinterpret_cast<Pack*>(args.out_tokens) + place * args.scales.row_packs;
    unsigned char* scales = args.scales.to + place * args.scales.bytes_per_row;
#pragma unroll
    for (uint32_t s = 0; s < LaneRow::kStrips; ++s) {
      if (!chunk.packs[s].exists) continue;
      const PayloadPack part(args, chunk.packs[s].pack);
      if (part.is_scales) {
        store_ragged(scales + part.offset(), row.pack(s), part.num_bytes(args.scales));
      } else {
        dev::st(packs + part.index, row.pack(s));
      }
    }
  }
}

}  // namespace nccl_ep::ll

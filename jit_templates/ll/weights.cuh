// SPDX-License-Identifier: Apache-2.0
// The weights of expert-major combine: a token's home rank sends each of its expert ranks all of the token's, three a unit.
#pragma once

#include "ll/routing.cuh"

namespace nccl_ep::ll {

// A token's top-k row in shared memory.
struct TopkRow {
  uint64_t id[kMaxTopk];
  float weight[kMaxTopk];
  float sum[kMaxTopk];

  // An expert that is repeated in the row was dispatched once; its weights add up in the first place.
  EP_DEVICE float sum_of(uint32_t k, uint32_t num_topk) const {
    float total = weight[k];
#pragma unroll 4
    for (uint32_t later = k + 1; later < num_topk; ++later) {
      if (id[later] == id[k]) total = dev::add(total, weight[later]);
    }
    return total;
  }
};

// A token's ids and weights, spread over a warp. Nothing waits for them yet.
struct TopkWeights {
  TopkIds ids;
  float weight[TopkIds::kPerLane] = {};

  EP_DEVICE TopkWeights(const LlCombineArgs& args, uint32_t token) : ids(args.routing, token) {
    if (token >= args.routing.tokens.most) return;
    const float* weights = args.topk_weights + uint64_t{token} * args.routing.num_topk;
#pragma unroll
    for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
      const uint32_t k = 32 * i + dev::lane_idx();
      if (k < args.routing.num_topk) weight[i] = dev::ld_nc(weights + k);
    }
  }
};

// A token's weights as a lane sends them: three a unit.
EP_DEVICE Unit make_weight_unit(const TopkWeights& given, uint32_t num_topk, uint32_t epoch) {
  EP_SHARED(TopkRow, row, [1]);
#pragma unroll
  for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
    row->id[32 * i + dev::lane_idx()] = given.ids.raw[i];
    row->weight[32 * i + dev::lane_idx()] = given.weight[i];
  }
  dev::sync_warp();
  for (uint32_t k = dev::lane_idx(); k < num_topk; k += 32) row->sum[k] = row->sum_of(k, num_topk);
  dev::sync_warp();
  Unit unit{{0, 0, 0}, epoch};
#pragma unroll
  for (uint32_t i = 0; i < 3; ++i) {
    const uint32_t k = 3 * dev::lane_idx() + i;
    if (k < num_topk) unit.word[i] = dev::bits_from_float(row->sum[k]);
  }
  return unit;
}

// Expert-major: sends the weights of this rank's tokens to the ranks of the team that they went to. The leaders call it;
// `weights` are of the first token.
template <Peers kPeers>
EP_DEVICE void send_weights(const Operation<kPeers>& op, const LlCombineArgs& args, TopkWeights weights) {
  const uint32_t num_topk = args.routing.num_topk, num_units = (num_topk + 2) / 3;
#pragma unroll 1
  for (uint32_t token = dev::block_idx(); token < num_tokens(args.routing.tokens);) {
    const TopkRanks ranks(op.group, args.routing, weights.ids);
    const Unit unit = make_weight_unit(weights, num_topk, op.epoch);
    for (uint32_t peer = op.team.first; peer < op.team.first + op.team.size; ++peer) {
      const bool goes = (ranks.bits_from(peer) & 1) && is_active(op, peer);
      if (goes && dev::lane_idx() < num_units) {
        dev::st_unit(op.route(peer, op.group.rank, token, dev::lane_idx()), unit);
      }
    }
    token += dev::num_blocks();
    weights = TopkWeights(args, token);
  }
}

}  // namespace nccl_ep::ll

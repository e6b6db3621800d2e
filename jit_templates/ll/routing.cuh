// SPDX-License-Identifier: Apache-2.0
// Reading the caller's top-k table: which ranks and local experts a token goes to.
#pragma once

#include "common/token_bits.cuh"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

// The id at (token, k) as it lies in memory, zero-extended. It is widened where it is used: until then
// nothing waits for the load, so that several can be under way.
EP_DEVICE uint64_t load_id(const LlRouting& routing, uint32_t token, uint32_t k) {
  const uint64_t at = uint64_t{token} * routing.num_topk + k;
  if (routing.idx_is_64bit) return dev::ld_nc(static_cast<const uint64_t*>(routing.topk_idx) + at);
  return dev::ld_nc(static_cast<const uint32_t*>(routing.topk_idx) + at);
}
EP_DEVICE int64_t widen(const LlRouting& routing, uint64_t id) {
  return routing.idx_is_64bit ? static_cast<int64_t>(id) : static_cast<int32_t>(id);
}

// The rank of an expert. One multiplication in place of a division: exact below 2^21 experts, of which a quarter cannot
// be counted in a block's shared memory.
struct ExpertHome {
  float ranks_per_expert;
  int64_t num_experts;

  EP_DEVICE explicit ExpertHome(const LlGroupState& group)
      : ranks_per_expert(1.0f / static_cast<float>(group.num_local_experts)),
        num_experts(int64_t{group.num_ranks} * group.num_local_experts) {}
  EP_DEVICE bool has(int64_t id) const { return id >= 0 && id < num_experts; }
  EP_DEVICE uint32_t rank_of(uint32_t expert) const {
    return static_cast<uint32_t>(dev::mul(static_cast<float>(expert) + 0.5f, ranks_per_expert));
  }
};

// Whether the id at (token, k) stands earlier in the token's row too.
EP_DEVICE bool is_repeated(const LlRouting& routing, uint32_t token, uint32_t k, int64_t id) {
  bool repeated = false;
#pragma unroll 1
  for (uint32_t before = 0; before < k; ++before) repeated |= widen(routing, load_id(routing, token, before)) == id;
  return repeated;
}

// Calls visit(place, id) for every place of the top-k table, counted row by row, a lane for each; 32 lanes visit places side
// by side, and those behind the last place get -1. The next id is on its way while one is visited, and the first while the
// team prepares. Loops in this file and the next stay loops: code that runs once is fetched from far away.
template <class Prepare, class Visit>
EP_DEVICE void for_each_place(const LlRouting& routing, const WarpTeam& team, Prepare prepare, Visit visit) {
  const uint32_t num_places = num_tokens(routing.tokens) * routing.num_topk, step = team.num_threads();
  const auto load = [&](uint32_t place) { return place < num_places ? load_id(routing, 0, place) : ~uint64_t{0}; };
  uint32_t place = team.thread_idx();
  uint64_t id = load(place);
  prepare();
#pragma unroll 1
  for (; place - dev::lane_idx() < num_places; place += step) {
    const uint64_t next_id = load(place + step);
    visit(place, widen(routing, id));
    id = next_id;
  }
}

// Whether one of a token's ids is among `count` experts from `first` on. Some loads are under way at a time.
EP_DEVICE bool has_expert(const LlRouting& routing, uint32_t token, int64_t first, uint32_t count) {
  bool has = false;
#pragma unroll 4
  for (uint32_t k = 0; k < routing.num_topk; ++k) {
    has |= static_cast<uint64_t>(widen(routing, load_id(routing, token, k)) - first) < count;
  }
  return has;
}

// A token's ids spread over a warp: a lane has those at its index and 32 behind. Nothing waits for them yet.
struct TopkIds {
  static constexpr uint32_t kPerLane = kMaxTopk / 32;
  uint64_t raw[kPerLane] = {};

  EP_DEVICE TopkIds(const LlRouting& routing, uint32_t token) {
    if (token >= routing.tokens.most) return;  // not num_tokens(): the load need not wait for it
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      const uint32_t k = 32 * i + dev::lane_idx();
      if (k < routing.num_topk) raw[i] = load_id(routing, token, k);
    }
  }
};

// Where the ids of a lane lead.
struct TopkRanks {
  static constexpr uint32_t kNone = ~0u;
  uint32_t rank[TopkIds::kPerLane];

  TopkRanks() = default;
  EP_DEVICE TopkRanks(const LlGroupState& group, const LlRouting& routing, const TopkIds& ids) {
    const ExpertHome home(group);
#pragma unroll
    for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
      const int64_t id = widen(routing, ids.raw[i]);
      const bool used = 32 * i + dev::lane_idx() < routing.num_topk;
      rank[i] = used && home.has(id) ? home.rank_of(static_cast<uint32_t>(id)) : kNone;
    }
  }

  // The ranks base ... base + 31 that the token goes to, as bits. The whole warp calls it.
  EP_DEVICE uint32_t bits_from(uint32_t base) const {
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
      if (rank[i] - base < 32) bits |= 1u << (rank[i] - base);
    }
    return dev::or_warp(bits);
  }
};

}  // namespace nccl_ep::ll

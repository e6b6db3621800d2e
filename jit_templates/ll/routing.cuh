// SPDX-License-Identifier: Apache-2.0
// Reading the caller's top-k table: which ranks and local experts a token goes to.
#pragma once

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

// The expert of an id, or -1 for no route or an id beyond the last expert (begin() has reported it).
EP_DEVICE int32_t expert_of(const LlGroupState& group, int64_t id) {
  return id >= 0 && id < int64_t{group.num_ranks} * group.num_local_experts ? static_cast<int32_t>(id) : -1;
}

// Whether the id at (token, k) stands earlier in the token's row too.
EP_DEVICE bool is_repeated(const LlRouting& routing, uint32_t token, uint32_t k, uint64_t id) {
  bool repeated = false;
#pragma unroll 4
  for (uint32_t before = 0; before < k; ++before) repeated |= load_id(routing, token, before) == id;
  return repeated;
}

// Which tokens have some property: one bit each.
struct TokenBits {
  uint32_t* word;

  EP_DEVICE void set(uint32_t token) const {
    dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(word + token / 32, 1u << token % 32);
  }
  EP_DEVICE bool has(uint32_t token) const { return word[token / 32] >> token % 32 & 1; }
  // How many are in the first words; how many tokens before `token` are.
  EP_DEVICE uint32_t count(uint32_t num_words) const {
    uint32_t count = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < num_words; ++i) count += dev::popc(word[i]);
    return count;
  }
  EP_DEVICE uint32_t count_before(uint32_t token) const {
    return count(token / 32) + dev::popc(word[token / 32] & ((1u << token % 32) - 1));
  }
};

// For every rank, which of this rank's tokens go there. In shared memory, of one block.
struct RankSets {
  uint32_t* words;
  uint32_t num_words;  // of one set

  EP_DEVICE RankSets(const LlRouting& routing, unsigned char* shared)
      : words(reinterpret_cast<uint32_t*>(shared)), num_words((routing.num_tokens + 31) / 32) {}
  EP_DEVICE TokenBits of(uint32_t rank) const { return {words + rank * num_words}; }

  // The ranks base ... base + 31 that a token goes to, as bits. The whole warp calls it.
  EP_DEVICE uint32_t ranks_of(const LlGroupState& group, uint32_t token, uint32_t base) const {
    const uint32_t rank = base + dev::lane_idx();
    return dev::ballot(rank < group.num_ranks && of(rank).has(token));
  }
};

// Fills the sets; a warp reads 32 tokens, a lane one of them. The block meets before anyone may use them.
EP_DEVICE void collect_rank_sets(const LlGroupState& group, const LlRouting& routing, const RankSets& sets) {
  constexpr uint32_t kIdsInFlight = 8;
  const int64_t num_experts = int64_t{group.num_ranks} * group.num_local_experts;
  for (uint32_t word = dev::warp_idx(); word < sets.num_words; word += dev::num_warps()) {
    const uint32_t token = word * 32 + dev::lane_idx();
    int64_t bad_id = -1;
    for (uint32_t base = 0; base < group.num_ranks; base += 32) {
      uint32_t ranks = 0;
      for (uint32_t first = 0; token < routing.num_tokens && first < routing.num_topk; first += kIdsInFlight) {
        uint64_t id[kIdsInFlight] = {};
#pragma unroll
        for (uint32_t i = 0; i < kIdsInFlight; ++i) {
          if (first + i < routing.num_topk) id[i] = load_id(routing, token, first + i);
        }
#pragma unroll
        for (uint32_t i = 0; i < kIdsInFlight; ++i) {
          const int64_t wide = first + i < routing.num_topk ? widen(routing, id[i]) : -1;
          if (wide >= num_experts) bad_id = wide;
          const int32_t expert = expert_of(group, wide);
          if (expert < 0) continue;
          const uint32_t rank = static_cast<uint32_t>(expert) / group.num_local_experts;
          if (rank - base < 32) ranks |= 1u << (rank - base);
        }
      }
      uint32_t mine = 0;
#pragma unroll 4
      for (uint32_t i = 0; i < 32 && base + i < group.num_ranks; ++i) {
        const uint32_t tokens = dev::ballot(ranks >> i & 1);
        if (dev::lane_idx() == i) mine = tokens;
      }
      const uint32_t rank = base + dev::lane_idx();
      if (rank < group.num_ranks) sets.of(rank).word[word] = mine;
    }
    if (bad_id >= 0) report(group, {FaultRecord::kBadExpert, Wait::none, 0, 0, token, 0, bad_id});
  }
}

// How a launch starts that must know where tokens go. Before sending, it says hello and waits for the peers.
// All threads of all blocks call it; false: a peer is missing or an earlier operation has failed, do nothing.
EP_DEVICE bool begin(const Operation& op, const LlRouting& routing, const RankSets& sets, bool sends) {
  EP_SHARED(uint32_t, ready, [1]);
  if (dev::warp_idx() == dev::num_warps() - 1) {  // the warp with the least to collect
    if (sends && dev::block_idx() == dev::num_blocks() - 1) announce(op.group);
    const bool failed = has_failed(op.group);  // on its way while the peers' words are read
    const bool ok = (!sends || await_peers(op)) && !dev::any(failed);
    if (dev::lane_idx() == 0) ready[0] = ok;
  }
  collect_rank_sets(op.group, routing, sets);
  dev::sync_block();
  return ready[0] != 0;
}

}  // namespace nccl_ep::ll

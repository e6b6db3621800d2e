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

// The rank of an expert. One multiplication in place of a division: exact below 2^21 experts, of which a quarter cannot
// be counted in a block's shared memory.
struct ExpertHome {
  float ranks_per_expert;

  EP_DEVICE explicit ExpertHome(const LlGroupState& group)
      : ranks_per_expert(1.0f / static_cast<float>(group.num_local_experts)) {}
  EP_DEVICE uint32_t rank_of(uint32_t expert) const {
    return static_cast<uint32_t>(dev::mul(static_cast<float>(expert) + 0.5f, ranks_per_expert));
  }
};

// Calls visit(token, k, id) for every place of the top-k table, a thread for each. The next id is on its way while one is
// visited, and the first while the block prepares. Loops in this file and the next stay loops: code that runs once is
// fetched from far away.
template <class Prepare, class Visit>
EP_DEVICE void for_each_place(const LlRouting& routing, Prepare prepare, Visit visit) {
  const uint32_t num_places = routing.num_tokens * routing.num_topk, step = dev::num_threads();
  uint32_t place = dev::thread_idx();
  uint64_t id = place < num_places ? load_id(routing, 0, place) : 0;
  prepare();
#pragma unroll 1
  for (; place < num_places; place += step) {
    const uint64_t next_id = place + step < num_places ? load_id(routing, 0, place + step) : 0;
    const uint32_t token = place / routing.num_topk;
    visit(token, place - token * routing.num_topk, widen(routing, id));
    id = next_id;
  }
}

// Whether the id at (token, k) stands earlier in the token's row too.
EP_DEVICE bool is_repeated(const LlRouting& routing, uint32_t token, uint32_t k, int64_t id) {
  bool repeated = false;
#pragma unroll 1
  for (uint32_t before = 0; before < k; ++before) repeated |= widen(routing, load_id(routing, token, before)) == id;
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

EP_DEVICE void clear_words(uint32_t* words, uint32_t num_words) {
#pragma unroll 1
  for (uint32_t i = dev::thread_idx(); i < num_words; i += dev::num_threads()) words[i] = 0;
}

// Fills the sets. The block meets before anyone may use them.
template <class Prepare>
EP_DEVICE void collect_rank_sets(const LlGroupState& group, const LlRouting& routing, const RankSets& sets,
                                 Prepare prepare) {
  const ExpertHome home(group);
  const int64_t num_experts = int64_t{group.num_ranks} * group.num_local_experts;
  for_each_place(routing, prepare, [&](uint32_t token, uint32_t, int64_t id) {
    if (id < 0) return;
    if (id < num_experts) {
      sets.of(home.rank_of(static_cast<uint32_t>(id))).set(token);
    } else {
      report(group, {FaultRecord::kBadExpert, Wait::none, 0, 0, token, 0, id});
    }
  });
}

// How a launch starts that must know where tokens go. Before sending, it says hello and waits for the peers.
// All threads of all blocks call it; false: a peer is missing or an earlier operation has failed, do nothing.
EP_DEVICE bool begin(const Operation& op, const LlRouting& routing, const RankSets& sets, bool sends) {
  EP_SHARED(uint32_t, ready, [1]);
  collect_rank_sets(op.group, routing, sets, [&] {
    clear_words(sets.words, op.group.num_ranks * sets.num_words);
    if (dev::warp_idx() == dev::num_warps() - 1) {
      if (sends && dev::block_idx() == dev::num_blocks() - 1) announce(op.group);
      const bool failed = has_failed(op.group);  // on its way while the peers' words are read
      const bool ok = (!sends || await_peers(op)) && !dev::any(failed);
      if (dev::lane_idx() == 0) ready[0] = ok;
    }
    dev::sync_block();
  });
  dev::sync_block();
  return ready[0] != 0;
}

}  // namespace nccl_ep::ll

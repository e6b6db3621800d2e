// SPDX-License-Identifier: Apache-2.0
// Reading the caller's top-k table: which ranks and local experts a token goes to.
#pragma once

#include "ll/operation.cuh"

namespace nccl_ep::ll {

// The expert of (token, k), or -1 for no route. An id beyond the last expert is a fault of the caller's.
EP_DEVICE int32_t expert_of(const LlGroupState& group, const LlRouting& routing, uint32_t token, uint32_t k) {
  const uint64_t at = uint64_t{token} * routing.num_topk + k;
  const int64_t id = routing.idx_is_64bit ? dev::ld_nc(static_cast<const int64_t*>(routing.topk_idx) + at)
                                          : dev::ld_nc(static_cast<const int32_t*>(routing.topk_idx) + at);
  if (id < 0) return -1;
  if (id >= int64_t{group.num_ranks} * group.num_local_experts) {
    report(group, {FaultRecord::kBadExpert, Wait::none, 0, 0, token, 0, id});
    return -1;
  }
  return static_cast<int32_t>(id);
}

// The ranks base ... base + 31 that a token goes to, as bits. The whole warp calls it.
EP_DEVICE uint32_t rank_set(const LlGroupState& group, const LlRouting& routing, uint32_t token, uint32_t base) {
  uint32_t mine = 0;
  for (uint32_t k = dev::lane_idx(); k < routing.num_topk; k += 32) {
    const int32_t expert = expert_of(group, routing, token, k);
    if (expert < 0) continue;
    const uint32_t rank = static_cast<uint32_t>(expert) / group.num_local_experts;
    if (rank - base < 32) mine |= 1u << (rank - base);
  }
  return dev::or_warp(mine);
}

// Calls visit(hit, k, local expert) for the routes of a token that end on `rank`, in top-k order; returns their
// number. With `merge`, an expert that is repeated in the row is visited once.
template <class Visit>
EP_DEVICE uint32_t for_each_hit(const LlGroupState& group, const LlRouting& routing, uint32_t token, uint32_t rank,
                                bool merge, Visit visit) {
  const int32_t first = static_cast<int32_t>(rank * group.num_local_experts);
  const int32_t last = first + static_cast<int32_t>(group.num_local_experts);
  uint32_t num_hits = 0;
  for (uint32_t k = 0; k < routing.num_topk; ++k) {
    const int32_t expert = expert_of(group, routing, token, k);
    if (expert < first || expert >= last) continue;
    bool repeated = false;
    for (uint32_t before = 0; merge && before < k; ++before) {
      repeated |= expert_of(group, routing, token, before) == expert;
    }
    if (!repeated) visit(num_hits++, k, static_cast<uint32_t>(expert - first));
  }
  return num_hits;
}

}  // namespace nccl_ep::ll

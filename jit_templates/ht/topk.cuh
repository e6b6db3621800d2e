// SPDX-License-Identifier: Apache-2.0
// Reading the caller's top-k table, and what one token's ids say, spread over a warp.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// An expert's number, or kNone.
constexpr uint32_t kNone = ~0u;

// The id at a place of the table, counted row by row. A number that no expert has is reported.
EP_DEVICE uint32_t load_expert(const HtGroupState& group, const TopkTable& topk, uint64_t place) {
  const int64_t id = topk.is_64bit ? dev::ld_nc(static_cast<const int64_t*>(topk.ids) + place)
                                   : dev::ld_nc(static_cast<const int32_t*>(topk.ids) + place);
  if (id < 0) return kNone;
  if (id < group.layout.num_experts) return static_cast<uint32_t>(id);
  report(group, {FaultRecord::kBadExpert, Wait::none, 0, 0, static_cast<uint32_t>(place / topk.num_topk), 0, id});
  return kNone;
}

// One token's hits. A lane has the places at its index and 32 behind. Hits are in the order of the experts, hence of the
// ranks; an expert that the row repeats is one hit, one that does not keep the token none.
struct TokenHits {
  static constexpr uint32_t kPerLane = kHtMaxTopk / 32;
  uint32_t expert[kPerLane];  // kNone: the place has none
  uint32_t rank[kPerLane];    // of the expert
  bool is_hit[kPerLane];
  uint32_t hit[kPerLane];       // which of the token's hits it is, or how many are before
  uint32_t num_hits[kPerLane];  // on that rank
  uint32_t dest[kPerLane];      // which of the token's ranks that rank is
  bool leads[kPerLane];         // whether it is the first place of the rank's first expert
  uint32_t num_dests;           // ranks with hits

  // keeps(expert, rank) says whether an expert keeps the token.
  template <class Keeps>
  EP_DEVICE TokenHits(const HtGroupState& group, const TopkTable& topk, uint32_t token, Keeps keeps) {
    const uint32_t num_topk = topk.num_topk, num_local = group.num_local_experts;
    uint32_t hits[kPerLane];  // of all lanes
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      const uint32_t k = 32 * i + dev::lane_idx();
      expert[i] = k < num_topk ? load_expert(group, topk, uint64_t{token} * num_topk + k) : kNone;
      rank[i] = expert[i] == kNone ? kNone : expert[i] / num_local;
      is_hit[i] = expert[i] != kNone && keeps(expert[i], rank[i]);
      hits[i] = dev::ballot(is_hit[i]);
      hit[i] = num_hits[i] = dest[i] = 0;
      leads[i] = expert[i] != kNone;
    }
    for_each_first_place(num_topk, [&](uint32_t k, uint32_t other) {
      const uint32_t other_rank = other / num_local;
      const uint32_t count = (k < 32 ? hits[0] : hits[kPerLane - 1]) >> k % 32 & 1;
#pragma unroll
      for (uint32_t i = 0; i < kPerLane; ++i) {
        if (other < expert[i]) hit[i] += count;
        if (other_rank == rank[i]) num_hits[i] += count;
        if (other_rank == rank[i] && other < expert[i]) leads[i] = false;
      }
    });
    drop_repeated_leaders();
    num_dests = 0;
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      for (uint32_t left = dev::ballot(leads[i] && num_hits[i] > 0); left; left &= left - 1) {
        const uint32_t other_rank = dev::shfl(rank[i], dev::find_first(left));
        ++num_dests;
#pragma unroll
        for (uint32_t j = 0; j < kPerLane; ++j) dest[j] += other_rank < rank[j];
      }
    }
  }

 private:
  // Calls visit(k, expert) for every place whose expert stands at none before.
  template <class Visit>
  EP_DEVICE void for_each_first_place(uint32_t num_topk, Visit visit) const {
    for (uint32_t k = 0; k < num_topk; ++k) {
      const uint32_t other = dev::shfl(k < 32 ? expert[0] : expert[kPerLane - 1], k % 32);
      bool before = false;
#pragma unroll
      for (uint32_t i = 0; i < kPerLane; ++i) before |= 32 * i + dev::lane_idx() < k && expert[i] == other;
      if (other != kNone && !dev::any(before)) visit(k, other);
    }
  }

  // Of equal places only the first leads.
  EP_DEVICE void drop_repeated_leaders() {
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      for (uint32_t left = dev::ballot(leads[i]); left; left &= left - 1) {
        const uint32_t lane = dev::find_first(left), other = dev::shfl(expert[i], lane), k = 32 * i + lane;
#pragma unroll
        for (uint32_t j = 0; j < kPerLane; ++j) {
          if (expert[j] == other && 32 * j + dev::lane_idx() > k) leads[j] = false;
        }
      }
    }
  }
};

}  // namespace nccl_ep::ht

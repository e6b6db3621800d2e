// SPDX-License-Identifier: Apache-2.0
// Reading the caller's top-k table.
#pragma once

#include "common/token_count.cuh"
#include "ht/operation.cuh"

namespace nccl_ep::ht {

// An expert's number, or kNone.
constexpr uint32_t kNone = ~0u;

// The id at a place of the table, counted row by row. A number that no expert has is reported.
EP_DEVICE uint32_t load_expert(const HtGroupState& group, const TopkTable& topk, uint32_t place) {
  const int64_t id = topk.is_64bit ? dev::ld_nc(static_cast<const int64_t*>(topk.ids) + place)
                                   : dev::ld_nc(static_cast<const int32_t*>(topk.ids) + place);
  if (id < 0) return kNone;
  if (id < group.layout.num_experts) return static_cast<uint32_t>(id);
  report(group, {FaultRecord::kBadExpert, Wait::none, 0, 0, place / topk.num_topk, 0, id});
  return kNone;
}

}  // namespace nccl_ep::ht

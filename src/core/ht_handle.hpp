// SPDX-License-Identifier: Apache-2.0
// A High-Throughput handle.
#pragma once

#include "core/checks.hpp"
#include "core/handle.hpp"
#include "core/ht_group.hpp"
#include "core/recipes.hpp"

namespace nccl_ep::core {

class HtHandle : public Handle {
 public:
  HtHandle(HtGroup& group, Layout layout, const ncclEpHandleConfig_t& config, const HtHandleLayout& memory_layout,
           const ncclEpTensor_t* handle_mem);

  // ht_update.cpp, ht_dispatch.cpp, ht_combine.cpp
  void update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t& info, cudaStream_t stream) override;
  void dispatch(const DispatchRequest& request, cudaStream_t stream) override;
  void combine(const CombineRequest& request, cudaStream_t stream) override;
  // No operation has halves.
  void complete(cudaStream_t stream) override;

 private:
  bool is_expert_major() const { return layout_ == Layout::expert_major; }
  uint32_t num_topk() const { return state_.layout.num_topk; }
  bool knows_totals() const;
  // Rows of this rank's output by the last update. Waits for the stream if the update has not run.
  uint64_t received_rows(cudaStream_t stream);
  // What dispatch's outputs must have: the budget, or in eager mode what is received.
  Extent output_rows(cudaStream_t stream);
  // What combine's inputs must have.
  Extent input_rows(const ncclEpTensor_t* tokens, cudaStream_t stream);
  // All ranks' tensors, if rows go straight there.
  PeerWindow window_of(const char* field, const ncclEpTensor_t& tensor, const RowPath& path, size_t alignment);
  HtScales scales_of(const DispatchRequest& request, const DispatchRows& rows);
  template <class Args>
  void launch(runtime::Kernel* kernel, const runtime::LaunchShape& shape, const Args& args, cudaStream_t stream) {
    group_.device().launch(kernel, shape, &args, sizeof(Args), stream);
  }

  HtGroup& group_;
  Layout layout_;
  nccl_ep::HtHandle state_{};
  uint32_t alignment_;
  uint32_t num_tokens_ = 0;
  HostSlots<HtHostTotals>::Slot host_totals_;
  uint32_t num_updates_ = 0;
  bool was_captured_ = false;  // an update may run again, whenever a graph does
};

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// A Low-Latency group.
#pragma once

#include "core/group.hpp"
#include "plan/ll_plan.hpp"

namespace nccl_ep::core {

class LlGroup : public Group {
 public:
  using Group::Group;

  std::unique_ptr<Handle> create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                        const ncclEpTensor_t* handle_mem) override;
  size_t handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const override;

  RowPaths row_paths(ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) const override;
  // ll_dispatch.cpp, ll_combine.cpp: whether a call may have these rows, and which way they take.
  RowPaths check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const;
  RowPaths check_rows(Layout layout, const CombineRequest& request) const;

  const plan::LlShape& shape() const { return shape_; }
  const plan::Limits& launch_limits() const { return limits_; }
  const plan::LlTuning& tuning() const { return tuning_; }
  jit::Kernels& kernels() { return kernels_; }
  const LlGroupState& state() const { return state_; }
  const LlNetwork& network() const { return network_; }  // of a group of several LSA teams

  // The handle whose send_only operation waits for Complete, or nullptr: a group has at most one.
  const void* pending = nullptr;

 private:
  uint64_t plan() override;
  void load() override;
  void connect() override;
  void check_layout(ncclEpLayout_t layout) const;
  LlHandleLayout handle_layout(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const;

  plan::LlShape shape_;
  plan::Limits limits_;
  plan::LlTuning tuning_;
  jit::Kernels kernels_;
  LlGroupState state_{};
  LlNetwork network_{};
};

}  // namespace nccl_ep::core

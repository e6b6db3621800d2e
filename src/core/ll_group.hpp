// SPDX-License-Identifier: Apache-2.0
// A Low-Latency group.
#pragma once

#include <algorithm>
#include <array>

#include "core/group.hpp"
#include "core/recipes.hpp"
#include "plan/ll_plan.hpp"

namespace nccl_ep::core {

// Which handles have a send_only operation that waits for Complete: of the group's last two operations, since each uses the
// bank of the last but one. All in the order of the calls, which is that in which operations begin on the device, in a graph
// at every replay.
class PendingOperations {
 public:
  bool has(const Handle* handle) const { return handles_[0] == handle || handles_[1] == handle; }
  bool are_any() const { return handles_[0] != nullptr || handles_[1] != nullptr; }
  // Whether the last but one is among them; how many of those before the next operation are, if not.
  bool blocks_next() const { return handles_[num_begun_ % 2] != nullptr; }
  uint32_t before_next() const { return handles_[(num_begun_ + 1) % 2] != nullptr; }

  // The next operation has begun; nullptr: it is not to be completed.
  void begin(const Handle* handle) { handles_[num_begun_++ % 2] = handle; }
  void end(const Handle* handle) { std::replace(handles_.begin(), handles_.end(), handle, kNone); }

 private:
  static constexpr const Handle* kNone = nullptr;
  std::array<const Handle*, LlLayout::kNumBanks> handles_{};
  uint32_t num_begun_ = 0;
};

class LlGroup : public Group {
 public:
  using Group::Group;

  std::unique_ptr<Handle> create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                        const ncclEpTensor_t* handle_mem) override;
  size_t handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const override;

  void clean_mask(cudaStream_t stream) override;

  RowPaths row_paths(ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) const override;
  // ll_dispatch.cpp, ll_combine.cpp: whether a call may have these rows, and which way they take.
  DispatchRows check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const;
  RowPaths check_rows(Layout layout, const CombineRequest& request) const;

  // The first two extents of what is received.
  struct Zones {
    Extent number, rows;
  };
  Zones zones(Layout layout) const;

  const plan::LlShape& shape() const { return shape_; }
  const plan::Limits& launch_limits() const { return limits_; }
  const plan::LlTuning& tuning() const { return tuning_; }
  const LlGroupState& state() const { return state_; }
  const LlNetwork& network() const { return network_; }  // of a group of several LSA teams

  PendingOperations& pending() { return pending_; }
  // A handle goes, and nobody receives what it has pending. Across LSA teams nobody waits for its messages either, so that
  // no later operation can have their memory.
  void forget(const Handle* handle);
  bool has_stray_messages() const { return has_stray_messages_; }

 private:
  uint64_t plan() override;
  void load() override;
  void connect() override;
  void launch_cleaning(cudaStream_t stream) override;
  void check_layout(ncclEpLayout_t layout) const;
  LlHandleLayout handle_layout(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const;

  plan::LlShape shape_;
  plan::Limits limits_;
  plan::LlTuning tuning_;
  LlGroupState state_{};
  LlNetwork network_{};
  PendingOperations pending_;
  bool has_stray_messages_ = false;
};

}  // namespace nccl_ep::core

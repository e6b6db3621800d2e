// SPDX-License-Identifier: Apache-2.0
// A High-Throughput group.
#pragma once

#include "core/group.hpp"
#include "core/host_slots.hpp"
#include "core/recipes.hpp"
#include "plan/ht_plan.hpp"

namespace nccl_ep::core {

class HtGroup : public Group {
 public:
  HtGroup(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config)
      : Group(std::move(comm), config), host_totals_(device()) {}

  std::unique_ptr<Handle> create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                        const ncclEpTensor_t* handle_mem) override;
  size_t handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const override;

  RowPaths row_paths(ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) const override;
  // ht_dispatch.cpp, ht_combine.cpp: whether a call may have these rows, and which way they take.
  DispatchRows check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const;
  RowPaths check_rows(const CombineRequest& request, const Extent& rows) const;

  const plan::HtShape& shape() const { return shape_; }
  const plan::HtTuning& tuning() const { return tuning_; }
  const plan::Limits& update_limits() const { return update_limits_; }
  const plan::Limits& move_limits(Layout layout, bool quantizes = false) const {
    return layout == Layout::expert_major || quantizes ? wide_limits_ : flat_limits_;
  }
  // Of combine that quantizes.
  const plan::Limits& quantizing_limits() const { return quantizing_limits_; }
  const HtGroupState& state() const { return state_; }
  const HtNetwork& network() const { return network_; }  // of a group of several LSA teams

  HostSlots<HtHostTotals>& host_totals() { return host_totals_; }
  // A window of the LSA team, addressed by the ranks' numbers in the world.
  PeerWindow by_world_rank(const PeerWindow& of_team);

  // Memory that one kernel at a time works in.
  Unit* block_counts() const { return work_.as<Unit>(); }
  uint32_t* num_begun() const { return reinterpret_cast<uint32_t*>(block_counts() + num_block_counts_); }
  HtPushed* pushed() const { return reinterpret_cast<HtPushed*>(num_begun() + kTurns); }
  uint32_t* num_ready() const { return reinterpret_cast<uint32_t*>(pushed() + kTurns * shape_.num_ranks); }
  uint32_t* tokens_ready() const { return num_ready() + num_parcel_chunks_; }

 private:
  static constexpr size_t kTurns = 2;  // of the counters of dispatch and combine

  uint64_t plan() override;
  void load() override;
  void connect() override;
  void launch_cleaning(cudaStream_t stream) override;
  void check_sizes() const;
  void check_parcels() const;
  void check_recipe(const CombineRequest& request, size_t hidden) const;
  plan::Limits limits_of(uint32_t num_sms, uint32_t max_threads) const;
  void check_layout(ncclEpLayout_t layout) const;
  void check_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const;

  plan::HtShape shape_;
  plan::HtTuning tuning_;
  plan::Limits update_limits_;
  plan::Limits flat_limits_, wide_limits_, quantizing_limits_;  // of dispatch and combine
  size_t num_block_counts_ = 0, num_parcel_chunks_ = 0;
  DeviceMemory work_;
  HostSlots<HtHostTotals> host_totals_;
  HtGroupState state_{};
  HtNetwork network_{};
};

}  // namespace nccl_ep::core

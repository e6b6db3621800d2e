// SPDX-License-Identifier: Apache-2.0
// The runtime seam's communicator on the simulator: all ranks of the cluster as one of them sees them.
#pragma once

#include <memory>

#include "runtime/runtime.hpp"
#include "sim/cluster.hpp"
#include "sim/device.hpp"

namespace nccl_ep::sim {

class SimCommunicator final : public runtime::Communicator {
 public:
  SimCommunicator(std::shared_ptr<Cluster> cluster, uint32_t rank);

  runtime::Device& device() override { return device_; }
  uint32_t rank() const override { return rank_.index; }
  uint32_t num_ranks() const override { return cluster_->topology().num_ranks(); }
  uint32_t lsa_rank() const override { return cluster_->topology().lsa_rank_of(rank_.index); }
  uint32_t lsa_size() const override { return cluster_->topology().lsa_team_size; }

  void* allocate_symmetric(size_t bytes) override;
  void release_symmetric(void* memory) noexcept override;
  ncclWindow_t register_window(void* memory, size_t bytes) override;
  void deregister_window(ncclWindow_t window) noexcept override;
  PeerWindow peers(ncclWindow_t window, size_t offset) override;
  std::unique_ptr<runtime::Network> make_network(const runtime::NetworkNeeds& needs) override;
  void all_gather(const void* in, void* out, size_t bytes) override;

 private:
  std::shared_ptr<Cluster> cluster_;
  Rank& rank_;
  SimDevice device_;
};

}  // namespace nccl_ep::sim

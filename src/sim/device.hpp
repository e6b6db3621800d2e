// SPDX-License-Identifier: Apache-2.0
// The runtime seam's device on the simulator: one rank's GPU. Also the body of the C API's calls about one
// GPU.
#pragma once

#include <memory>
#include <string>

#include "runtime/runtime.hpp"
#include "sim/cluster.hpp"

namespace nccl_ep::sim {

class SimDevice final : public runtime::Device {
 public:
  SimDevice(std::shared_ptr<Cluster> cluster, uint32_t rank);
  ~SimDevice() override;

  const runtime::DeviceLimits& limits() const override { return limits_; }
  void* allocate(size_t bytes) override;
  void release(void* memory) noexcept override;
  void* allocate_host(size_t bytes) override;
  void release_host(void* memory) noexcept override;
  // nccl_ep_elastic.h's, freed by release(). Writes back how much there is of each.
  void* allocate_elastic(size_t& gpu_bytes, size_t& host_bytes);
  void fill(void* dst, uint8_t value, size_t bytes, cudaStream_t stream) override;
  void copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) override;
  cudaStream_t own_stream() override;
  void synchronize(cudaStream_t stream) override;
  bool is_capturing(cudaStream_t stream) override;
  runtime::Kernel* builtin_kernel(std::string_view name) override;
  runtime::Kernel* load_kernel(std::string_view binary, const std::string& name) override;
  uint32_t blocks_per_sm(runtime::Kernel* kernel, const runtime::LaunchShape& shape) override;
  void launch(runtime::Kernel* kernel, const runtime::LaunchShape& shape, const void* args, size_t args_bytes,
              cudaStream_t stream) override;

 private:
  // Under the cluster's lock.
  void enqueue(cudaStream_t stream, Work work);

  std::shared_ptr<Cluster> cluster_;
  Rank& rank_;
  runtime::DeviceLimits limits_;
  cudaStream_t own_stream_ = nullptr;
};

}  // namespace nccl_ep::sim

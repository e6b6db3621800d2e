// SPDX-License-Identifier: Apache-2.0
// A GPU behind the seam. Any thread may call it: each method makes the GPU's primary context current for
// itself.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/cuda/driver.hpp"
#include "runtime/runtime.hpp"

namespace nccl_ep::runtime::cuda {

struct CudaKernel;

// "sm_90a" for compute capability 9.0. Throws Error(ncclInvalidUsage) for GPUs before 9.0.
std::string arch_name(int major, int minor);

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  CUcontext context() const { return context_; }
  // Whether NICs may access the memory that backs windows.
  bool has_rdma_for_windows() const;

  const DeviceLimits& limits() const override { return limits_; }

  void* allocate(size_t bytes) override;
  void release(void* memory) noexcept override;
  void* allocate_host(size_t bytes) override;
  void release_host(void* memory) noexcept override;

  void fill(void* dst, uint8_t value, size_t bytes, cudaStream_t stream) override;
  void copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) override;

  cudaStream_t own_stream() override { return own_stream_; }
  void synchronize(cudaStream_t stream) override;
  bool is_capturing(cudaStream_t stream) override;

  Kernel* builtin_kernel(std::string_view name) override;
  Kernel* load_kernel(std::string_view binary, const std::string& name) override;
  uint32_t blocks_per_sm(Kernel* kernel, const LaunchShape& shape) override;
  void launch(Kernel* kernel, const LaunchShape& shape, const void* args, size_t args_bytes,
              cudaStream_t stream) override;

 private:
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  CUstream own_stream_ = nullptr;
  DeviceLimits limits_;
  std::vector<std::unique_ptr<CudaKernel>> kernels_;
};

}  // namespace nccl_ep::runtime::cuda

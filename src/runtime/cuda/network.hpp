// SPDX-License-Identifier: Apache-2.0
// A device communicator of NCCL's, where kernels find it.
#pragma once

#include <memory>
#include <vector>

#include "runtime/cuda/device.hpp"
#include "runtime/cuda/nccl_api.hpp"
#include "runtime/runtime.hpp"

namespace nccl_ep::runtime::cuda {

// The communicator has a network: why_no_network() is empty.
std::unique_ptr<Network> make_network(ncclComm_t comm, CudaDevice& device, const ncclCommProperties& properties,
                                      const NetworkNeeds& needs);

// What NCCL of this version is asked for.
ncclDevCommRequirements requirements(int nccl_version, const ncclCommProperties& properties, const NetworkNeeds& needs);

// Memory for an ncclDevComm whose size only NCCL knows, or only an estimate of it.
class DevCommBuffer {
 public:
  // `bytes`: what NCCL says that it needs; 0 before 2.31, which does not tell.
  explicit DevCommBuffer(size_t bytes);
  ncclDevComm* get() { return reinterpret_cast<ncclDevComm*>(memory_.data()); }
  size_t size() const;
  // Throws Error(ncclInternalError) when something was written behind it.
  void check() const;

 private:
  std::vector<unsigned char> memory_;
};

}  // namespace nccl_ep::runtime::cuda

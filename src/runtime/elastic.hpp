// SPDX-License-Identifier: Apache-2.0
// Memory that begins on a GPU and goes on in the host, for work that needs no communicator.
#pragma once

#include <cstddef>
#include <string>

#include "runtime/addresses.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::runtime {

struct ElasticMemory {
  void* data = nullptr;  // the GPU's bytes, and then the host's
  size_t gpu_bytes = 0;
  size_t host_bytes = 0;
  int device = 0;
  int numa_node = 0;
};

// Refuses numbers of bytes that make no sense on any device.
inline void check_elastic(size_t gpu_bytes, size_t host_bytes) {
  const auto check_bytes = [](const char* field, size_t bytes) {
    if (bytes <= kAddressableBytes) return;
    refuse(ncclInvalidArgument, field,
           "is " + std::to_string(bytes) + ", expected at most " + std::to_string(kAddressableBytes));
  };
  check_bytes("gpu_bytes", gpu_bytes);
  check_bytes("host_bytes", host_bytes);
  if (gpu_bytes + host_bytes == 0) {
    refuse(ncclInvalidArgument, "gpu_bytes", "is 0, as host_bytes is, expected one of them to be positive");
  }
}

// At least so many bytes, each number rounded up to what can be mapped; not both are 0.
ElasticMemory allocate_elastic(int device, size_t gpu_bytes, size_t host_bytes);
void release_elastic(const ElasticMemory& memory);

}  // namespace nccl_ep::runtime

// SPDX-License-Identifier: Apache-2.0
// Memory that begins on a GPU and goes on in the host, for work that needs no communicator.
#pragma once

#include <cstddef>

namespace nccl_ep::runtime {

struct ElasticMemory {
  void* data = nullptr;  // the GPU's bytes, and then the host's
  size_t gpu_bytes = 0;
  size_t host_bytes = 0;
  int device = 0;
  int numa_node = 0;
};

// At least so many bytes, each number rounded up to what can be mapped; not both are 0.
ElasticMemory allocate_elastic(int device, size_t gpu_bytes, size_t host_bytes);
void release_elastic(const ElasticMemory& memory);

}  // namespace nccl_ep::runtime

// SPDX-License-Identifier: Apache-2.0
#include "nccl_ep_elastic.h"

#include "api/decode.hpp"
#include "runtime/elastic.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace nccl_ep::api {

template <>
struct Versions<ncclEpElasticMemory_t> {
  static constexpr const char* kName = "ncclEpElasticMemory_t";
  static constexpr unsigned kV1Size = NCCL_EP_ELASTIC_MEMORY_V1_SIZE;
  static constexpr ncclEpElasticMemory_t defaults() { return NCCL_EP_ELASTIC_MEMORY_INIT; }
};

}  // namespace nccl_ep::api

extern "C" ncclResult_t ncclEpElasticAlloc(ncclEpElasticMemory_t* memory, size_t gpu_bytes, size_t host_bytes,
                                           int device) {
  return guarded("ncclEpElasticAlloc", nullptr, [&] {
    decode_required("memory", memory);
    const runtime::ElasticMemory made = runtime::allocate_elastic(device, gpu_bytes, host_bytes);
    memory->data = made.data;
    memory->gpu_bytes = made.gpu_bytes;
    memory->host_bytes = made.host_bytes;
    memory->device = made.device;
    memory->numa_node = made.numa_node;
  });
}

extern "C" ncclResult_t ncclEpElasticFree(ncclEpElasticMemory_t* memory) {
  return guarded("ncclEpElasticFree", nullptr, [&] {
    const ncclEpElasticMemory_t current = decode_optional("memory", memory);
    if (!current.data) return;
    runtime::release_elastic({current.data, current.gpu_bytes, current.host_bytes, current.device, current.numa_node});
    memory->data = nullptr;
    memory->gpu_bytes = memory->host_bytes = 0;
  });
}

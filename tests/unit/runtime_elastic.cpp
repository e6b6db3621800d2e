// SPDX-License-Identifier: Apache-2.0
// Elastic memory on a driver that only takes notes: what it is asked for, and that a failure leaves nothing behind.
#include <doctest/doctest.h>

#include <map>
#include <string>

#include "nccl_ep_elastic.h"
#include "runtime/cuda/elastic.hpp"

using namespace nccl_ep;
using namespace nccl_ep::runtime;
using namespace nccl_ep::runtime::cuda;

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr CUdeviceptr kBegin = 0x7000'0000'0000;

// Two GPUs that reach each other and a third one that does not.
struct Notes {
  std::string fails;  // the function that does, after some calls that do not
  int calls_before_failure = 0;
  int numa_node = 1;
  size_t host_granularity = 4 * kMiB;
  std::map<CUdeviceptr, size_t> mapped;
  std::map<CUdeviceptr, std::string> users;
  int live_allocations = 0;
  size_t reserved = 0, reserved_alignment = 0;
  std::string kinds;

  CUresult result_of(const char* function) {
    return fails == function && calls_before_failure-- == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
  }
} notes;

CUresult create(CUmemGenericAllocationHandle* handle, size_t, const CUmemAllocationProp* what, unsigned long long) {
  const CUresult result = notes.result_of("create");
  if (result != CUDA_SUCCESS) return result;
  notes.kinds += what->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? "gpu" : "node";
  notes.kinds += std::to_string(what->location.id) + " ";
  *handle = ++notes.live_allocations;
  return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr place, size_t bytes, size_t, CUmemGenericAllocationHandle, unsigned long long) {
  const CUresult result = notes.result_of("map");
  if (result == CUDA_SUCCESS) notes.mapped[place] = bytes;
  return result;
}

CUresult unmap(CUdeviceptr place, size_t bytes) {
  CHECK(notes.mapped.at(place) == bytes);
  notes.mapped.erase(place);
  return CUDA_SUCCESS;
}

CUresult set_access(CUdeviceptr place, size_t bytes, const CUmemAccessDesc* users, size_t count) {
  CHECK(notes.mapped.at(place) == bytes);
  for (size_t i = 0; i < count; ++i) {
    notes.users[place] += users[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE ? "gpu" : "node";
    notes.users[place] += std::to_string(users[i].location.id) + " ";
  }
  return notes.result_of("access");
}

CUresult granularity(size_t* bytes, const CUmemAllocationProp* what, CUmemAllocationGranularity_flags) {
  *bytes = what->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? 2 * kMiB : notes.host_granularity;
  return CUDA_SUCCESS;
}

Driver note_taker() {
  notes = {};
  Driver cu;
  cu.cuGetErrorName = [](CUresult, const char** name) { return *name = "CUDA_ERROR_SOME", CUDA_SUCCESS; };
  cu.cuGetErrorString = [](CUresult, const char** text) { return *text = "some reason", CUDA_SUCCESS; };
  cu.cuDeviceGet = [](CUdevice* device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; };
  cu.cuDeviceGetCount = [](int* count) { return *count = 3, CUDA_SUCCESS; };
  cu.cuDeviceGetAttribute = [](int* value, CUdevice_attribute which, CUdevice) {
    *value = which == CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID ? notes.numa_node : 1;
    return CUDA_SUCCESS;
  };
  cu.cuDeviceCanAccessPeer = [](int* can, CUdevice from, CUdevice to) {
    return *can = from != 2 && to != 2, CUDA_SUCCESS;
  };
  cu.cuMemGetAllocationGranularity = granularity;
  cu.cuMemCreate = create;
  cu.cuMemRelease = [](CUmemGenericAllocationHandle) { return --notes.live_allocations, CUDA_SUCCESS; };
  cu.cuMemAddressReserve = [](CUdeviceptr* begin, size_t bytes, size_t alignment, CUdeviceptr, unsigned long long) {
    const CUresult result = notes.result_of("reserve");
    if (result != CUDA_SUCCESS) return result;
    notes.reserved = bytes;
    notes.reserved_alignment = alignment;
    *begin = kBegin;
    return CUDA_SUCCESS;
  };
  cu.cuMemAddressFree = [](CUdeviceptr begin, size_t bytes) {
    CHECK(begin == kBegin);
    CHECK(bytes == notes.reserved);
    return notes.reserved = 0, CUDA_SUCCESS;
  };
  cu.cuMemMap = map;
  cu.cuMemUnmap = unmap;
  cu.cuMemSetAccess = set_access;
  return cu;
}

// The message of a failure, which must have left nothing.
std::string refusal(const Driver& cu, int device, size_t gpu_bytes, size_t host_bytes) {
  std::string message;
  try {
    allocate_elastic(cu, device, gpu_bytes, host_bytes);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(notes.mapped.empty());
  CHECK(notes.live_allocations == 0);
  CHECK(notes.reserved == 0);
  return message;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("runtime_elastic: the host's part is behind the GPU's, in one range") {
  const Driver cu = note_taker();
  const ElasticMemory memory = allocate_elastic(cu, 1, 5 * kMiB, 1);
  CHECK(memory.data == reinterpret_cast<void*>(kBegin));
  CHECK(memory.gpu_bytes == 8 * kMiB);  // multiples of the larger granularity
  CHECK(memory.host_bytes == 4 * kMiB);
  CHECK(memory.device == 1);
  CHECK(memory.numa_node == 1);
  CHECK(notes.reserved == 12 * kMiB);
  CHECK(notes.reserved_alignment == 4 * kMiB);
  CHECK(notes.kinds == "gpu1 node1 ");
  CHECK(notes.mapped == std::map<CUdeviceptr, size_t>{{kBegin, 8 * kMiB}, {kBegin + 8 * kMiB, 4 * kMiB}});
  CHECK(notes.live_allocations == 0);  // mappings alone keep them
  release_elastic(cu, memory);
  CHECK(notes.mapped.empty());
  CHECK(notes.reserved == 0);
}

TEST_CASE("runtime_elastic: the GPU and its peers have access, and the host to its part") {
  const Driver cu = note_taker();
  allocate_elastic(cu, 0, 1, 1);
  CHECK(notes.users[kBegin] == "gpu0 gpu1 ");
  CHECK(notes.users[kBegin + 4 * kMiB] == "gpu0 gpu1 node1 ");
}

TEST_CASE("runtime_elastic: either part may be missing") {
  const Driver cu = note_taker();
  const ElasticMemory on_gpu = allocate_elastic(cu, 2, kMiB, 0);
  CHECK(notes.kinds == "gpu2 ");
  CHECK(notes.users[kBegin] == "gpu2 ");
  release_elastic(cu, on_gpu);
  const ElasticMemory in_host = allocate_elastic(cu, 0, 0, kMiB);
  CHECK(in_host.gpu_bytes == 0);
  CHECK(notes.mapped == std::map<CUdeviceptr, size_t>{{kBegin, 4 * kMiB}});
  release_elastic(cu, in_host);
  CHECK(notes.mapped.empty());
}

TEST_CASE("runtime_elastic: whatever the driver refuses, nothing is left behind") {
  const std::map<std::string, const char*> says = {
      {"reserve", "reserving 8388608 bytes of addresses: CUDA_ERROR_SOME (2): some reason"},
      {"create", "allocating 4194304 bytes"},
      {"map", "mapping 4194304 bytes"},
      {"access", "access to 4194304 bytes"}};
  for (const auto& [function, message] : says) {
    for (const int calls_before : {0, 1}) {
      if (function == "reserve" && calls_before == 1) continue;
      CAPTURE(function);
      CAPTURE(calls_before);
      const Driver cu = note_taker();
      notes.fails = function;
      notes.calls_before_failure = calls_before;
      const std::string found = refusal(cu, 0, kMiB, kMiB);
      CHECK(contains(found, message));
      if (function != "reserve") CHECK(contains(found, calls_before ? "in the host" : "on the GPU"));
    }
  }
}

TEST_CASE("runtime_elastic: what cannot be is said before anything is done") {
  const Driver cu = note_taker();
  CHECK(contains(refusal(cu, 3, 1, 1), "device: is 3, expected a number below 3"));
  CHECK(contains(refusal(cu, -1, 1, 1), "device: is -1"));
  CHECK(contains(refusal(cu, 0, 0, 0), "gpu_bytes: is 0, as host_bytes is"));
  CHECK(contains(refusal(cu, 0, SIZE_MAX, 1), "gpu_bytes: is 18446744073709551615, expected at most"));
  CHECK(contains(refusal(cu, 0, 1, SIZE_MAX), "host_bytes: is 18446744073709551615"));
  notes.numa_node = -1;
  CHECK(contains(refusal(cu, 0, 1, 1), "expected a GPU of a host with NUMA nodes"));
}

TEST_CASE("runtime_elastic: what is wrong in itself is so without a driver, too") {
  ncclEpElasticMemory_t memory = NCCL_EP_ELASTIC_MEMORY_INIT;
  CHECK(ncclEpElasticAlloc(&memory, 0, 0, 0) == ncclInvalidArgument);
  CHECK(ncclEpElasticAlloc(&memory, size_t{1} << 48, 0, 0) == ncclInvalidArgument);
}

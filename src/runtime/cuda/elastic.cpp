// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/elastic.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "shared/types.hpp"

namespace nccl_ep::runtime::cuda {
namespace {

CUdevice device_of(const Driver& cu, int ordinal) {
  int count = 0;
  check(cu, cu.cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= count) {
    refuse(ncclInvalidArgument, "device",
           "is " + std::to_string(ordinal) + ", expected a number below " + std::to_string(count) +
               ", the GPUs that this process sees");
  }
  CUdevice device = 0;
  check(cu, cu.cuDeviceGet(&device, ordinal), "cuDeviceGet");
  return device;
}

// Of the host memory nearest to the device.
int numa_node_of(const Driver& cu, CUdevice device) {
  if (attribute(cu, device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) == 0) {
    refuse(ncclInvalidUsage, "device",
           "is " + std::to_string(device) + ", expected a GPU with CUDA's virtual memory management");
  }
  const int node = attribute(cu, device, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
  if (node < 0) {
    refuse(ncclInvalidUsage, "device",
           "is " + std::to_string(device) + ", expected a GPU of a host with NUMA nodes: CUDA knows none");
  }
  return node;
}

// One part of the range.
struct Part {
  CUmemAllocationProp properties;
  std::vector<CUmemAccessDesc> users;
  const char* where;

  Part(CUmemLocation location, std::vector<CUmemAccessDesc> users, const char* where)
      : properties{CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_HANDLE_TYPE_NONE, location, nullptr, {}},
        users(std::move(users)),
        where(where) {}
};

size_t granularity_of(const Driver& cu, const Part& part) {
  size_t bytes = 0;
  check(cu, cu.cuMemGetAllocationGranularity(&bytes, &part.properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
        std::string("how memory ") + part.where + " is mapped");
  return bytes;
}

// The device and those that reach it as peers.
std::vector<CUmemAccessDesc> devices_near(const Driver& cu, CUdevice device) {
  int count = 0;
  check(cu, cu.cuDeviceGetCount(&count), "cuDeviceGetCount");
  std::vector<CUmemAccessDesc> users;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    CUdevice other = 0;
    check(cu, cu.cuDeviceGet(&other, ordinal), "cuDeviceGet");
    int reaches = other == device;
    if (!reaches) check(cu, cu.cuDeviceCanAccessPeer(&reaches, other, device), "cuDeviceCanAccessPeer");
    if (reaches) users.push_back({{CU_MEM_LOCATION_TYPE_DEVICE, other}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  }
  return users;
}

// A range of addresses and what is mapped there, one part behind the other. All of it goes unless it is kept.
class Range {
 public:
  Range(const Driver& cu, size_t bytes, size_t alignment) : cu_(cu), bytes_(bytes) {
    check(cu, cu.cuMemAddressReserve(&begin_, bytes, alignment, 0, 0),
          "reserving " + std::to_string(bytes) + " bytes of addresses");
  }
  ~Range() {
    if (is_kept_) return;
    if (bytes_of_first_ != 0) cu_.cuMemUnmap(begin_, bytes_of_first_);
    if (end_ != bytes_of_first_) cu_.cuMemUnmap(begin_ + bytes_of_first_, end_ - bytes_of_first_);
    cu_.cuMemAddressFree(begin_, bytes_);
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  void append(const Part& part, size_t bytes) {
    if (bytes == 0) return;
    const std::string what = std::to_string(bytes) + " bytes " + part.where;
    CUmemGenericAllocationHandle memory = 0;
    check(cu_, cu_.cuMemCreate(&memory, bytes, &part.properties, 0), "allocating " + what);
    const CUdeviceptr place = begin_ + end_;
    const CUresult mapped = cu_.cuMemMap(place, bytes, 0, memory, 0);
    cu_.cuMemRelease(memory);  // the mapping keeps it
    check(cu_, mapped, "mapping " + what);
    if (end_ == 0) bytes_of_first_ = bytes;
    end_ += bytes;
    check(cu_, cu_.cuMemSetAccess(place, bytes, part.users.data(), part.users.size()), "access to " + what);
  }

  void* keep() {
    is_kept_ = true;
    return reinterpret_cast<void*>(begin_);
  }

 private:
  const Driver& cu_;
  CUdeviceptr begin_ = 0;
  size_t bytes_;
  size_t end_ = 0;  // of what is mapped
  size_t bytes_of_first_ = 0;
  bool is_kept_ = false;
};

}  // namespace

ElasticMemory allocate_elastic(const Driver& cu, int ordinal, size_t gpu_bytes, size_t host_bytes) {
  check_elastic(gpu_bytes, host_bytes);
  const CUdevice device = device_of(cu, ordinal);
  const CUmemLocation node = {CU_MEM_LOCATION_TYPE_HOST_NUMA, numa_node_of(cu, device)};
  const std::vector<CUmemAccessDesc> devices = devices_near(cu, device);
  const Part on_gpu({CU_MEM_LOCATION_TYPE_DEVICE, device}, devices, "on the GPU");
  Part in_host(node, devices, "in the host");
  in_host.users.push_back({node, CU_MEM_ACCESS_FLAGS_PROT_READWRITE});

  const size_t granularity = std::max(granularity_of(cu, on_gpu), granularity_of(cu, in_host));
  ElasticMemory memory{nullptr, align_up(gpu_bytes, granularity), align_up(host_bytes, granularity), ordinal, node.id};
  Range range(cu, memory.gpu_bytes + memory.host_bytes, granularity);
  range.append(on_gpu, memory.gpu_bytes);
  range.append(in_host, memory.host_bytes);
  memory.data = range.keep();
  return memory;
}

void release_elastic(const Driver& cu, const ElasticMemory& memory) {
  const auto begin = reinterpret_cast<CUdeviceptr>(memory.data);
  if (memory.gpu_bytes != 0) check(cu, cu.cuMemUnmap(begin, memory.gpu_bytes), "unmapping memory on the GPU");
  if (memory.host_bytes != 0) {
    check(cu, cu.cuMemUnmap(begin + memory.gpu_bytes, memory.host_bytes), "unmapping memory in the host");
  }
  check(cu, cu.cuMemAddressFree(begin, memory.gpu_bytes + memory.host_bytes), "giving addresses back");
}

}  // namespace nccl_ep::runtime::cuda

namespace nccl_ep::runtime {

// What is wrong in itself is so without a driver, too.
ElasticMemory allocate_elastic(int device, size_t gpu_bytes, size_t host_bytes) {
  check_elastic(gpu_bytes, host_bytes);
  return cuda::allocate_elastic(cuda::driver(), device, gpu_bytes, host_bytes);
}

void release_elastic(const ElasticMemory& memory) { cuda::release_elastic(cuda::driver(), memory); }

}  // namespace nccl_ep::runtime

// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/communicator.hpp"

#include <algorithm>
#include <string>

#include "runtime/cuda/device.hpp"
#include "runtime/cuda/nccl_api.hpp"
#include "runtime/cuda/network.hpp"
#include "runtime/cuda/network_support.hpp"

namespace nccl_ep::runtime::cuda {
namespace {

constexpr const char* kNoSymmetricMemory =
    "NCCL has no symmetric memory on this communicator. It needs GPUs that can all reach one another over "
    "NVLink or PCIe peer access, and neither NCCL_CUMEM_ENABLE=0 nor NCCL_WIN_ENABLE=0; NCCL_DEBUG=INFO says more";

ncclCommProperties query(ncclComm_t comm) {
  ncclCommProperties properties{};
  properties.size = nccl().version < kNccl231 ? offsetof(ncclCommProperties, commHash) : sizeof(properties);
  properties.magic = NCCL_API_MAGIC;
  properties.version = static_cast<unsigned int>(std::min(nccl().version, kDeclaredNccl));
  check(nccl().ncclCommQueryProperties(comm, &properties), "ncclCommQueryProperties", comm);
  return properties;
}

NetworkFacts network_facts(const CudaDevice& device, const ncclCommProperties& properties) {
  return {nccl().version,
          properties.ginType,
          properties.railedGinType,
          properties.ginSupport[NCCL_GIN_TYPE_PROXY],  // false where NCCL does not tell
          device.has_rdma_for_windows(),
          is_network_switched_off()};
}

// Across several LSA teams NCCL has symmetric memory only with GIN.
void check_device_api(const CudaDevice& device, const ncclCommProperties& properties) {
  if (properties.nLsaTeams > 1 && (!properties.deviceApiSupport || nccl().version < kMinNcclTeams)) {
    const std::string problem = why_no_network(network_facts(device, properties), NetworkNeeds::Reach::rail);
    if (!problem.empty()) {
      throw Error(ncclInvalidUsage, "the communicator's " + std::to_string(properties.nRanks) + " ranks form " +
                                        std::to_string(properties.nLsaTeams) +
                                        " LSA teams, between which kernels need the network (GIN): " + problem);
    }
  }
  if (!properties.deviceApiSupport) throw Error(ncclInvalidUsage, kNoSymmetricMemory);
}

class CudaCommunicator final : public Communicator {
 public:
  CudaCommunicator(ncclComm_t comm, std::unique_ptr<CudaDevice> device, const ncclCommProperties& properties)
      : comm_(comm),
        device_(std::move(device)),
        properties_(properties),
        rank_(static_cast<uint32_t>(properties.rank)),
        num_ranks_(static_cast<uint32_t>(properties.nRanks)),
        lsa_size_(num_ranks_ / static_cast<uint32_t>(properties.nLsaTeams)) {}

  Device& device() override { return *device_; }
  uint32_t rank() const override { return rank_; }
  uint32_t num_ranks() const override { return num_ranks_; }
  uint32_t lsa_rank() const override { return rank_ % lsa_size_; }
  uint32_t lsa_size() const override { return lsa_size_; }

  void* allocate_symmetric(size_t bytes) override {
    const ContextScope scope(device_->context());
    const RelaxedCaptureScope relaxed;
    void* memory = nullptr;
    check(nccl().ncclMemAlloc(&memory, bytes), "ncclMemAlloc", nullptr);
    return memory;
  }

  void release_symmetric(void* memory) noexcept override {
    if (memory == nullptr) return;
    quietly(device_->context(), [&] { nccl().ncclMemFree(memory); });
  }

  ncclWindow_t register_window(void* memory, size_t bytes) override {
    const ContextScope scope(device_->context());
    const RelaxedCaptureScope relaxed;
    ncclWindow_t window = nullptr;
    // Signals in a window stay behind the puts before them only if its memory is strictly ordered for NICs.
    const int flags = NCCL_WIN_COLL_SYMMETRIC | (lsa_size_ < num_ranks_ ? NCCL_WIN_STRICT_ORDERING : 0);
    finish(nccl().ncclCommWindowRegister(comm_, memory, bytes, &window, flags), "ncclCommWindowRegister", comm_);
    if (window == nullptr) throw Error(ncclInvalidUsage, kNoSymmetricMemory);
    try {
      check_stride(window);
    } catch (...) {
      deregister_window(window);
      throw;
    }
    return window;
  }

  void deregister_window(ncclWindow_t window) noexcept override {
    if (window == nullptr) return;
    quietly(device_->context(), [&] { nccl().ncclCommWindowDeregister(comm_, window); });
  }

  // Called for the caller's windows in every operation: two addresses tell base and stride.
  PeerWindow peers(ncclWindow_t window, size_t offset) override {
    const uint64_t first = peer_address(window, offset, 0);
    if (lsa_size_ == 1) return {first, 0};
    const uint32_t last = lsa_size_ - 1;
    const uint64_t distance = peer_address(window, offset, last) - first;
    if (distance % last != 0) refuse_distances(last);
    return {first, distance / last};
  }

  std::unique_ptr<Network> make_network(const NetworkNeeds& needs) override {
    const std::string problem = why_no_network(network_facts(*device_, properties_), needs.reach);
    if (!problem.empty()) throw Error(ncclInvalidUsage, "kernels need the network (GIN): " + problem);
    return cuda::make_network(comm_, *device_, properties_, needs);
  }

  void all_gather(const void* in, void* out, size_t bytes) override {
    const cudaStream_t stream = device_->own_stream();
    if (!gathered_ || gathered_->bytes < bytes * (num_ranks_ + 1)) {
      gathered_ = std::make_unique<DeviceBuffer>(*device_, bytes * (num_ranks_ + 1));
    }
    unsigned char* all = gathered_->memory;
    unsigned char* mine = all + bytes * num_ranks_;
    device_->copy(mine, in, bytes, stream);
    {
      const ContextScope scope(device_->context());
      finish(nccl().ncclAllGather(mine, all, bytes, ncclUint8, comm_, stream), "ncclAllGather", comm_);
    }
    device_->copy(out, all, bytes * num_ranks_, stream);
    device_->synchronize(stream);
  }

 private:
  struct DeviceBuffer {
    DeviceBuffer(CudaDevice& device, size_t bytes)
        : device(device), memory(static_cast<unsigned char*>(device.allocate(bytes))), bytes(bytes) {}
    ~DeviceBuffer() { device.release(memory); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    CudaDevice& device;
    unsigned char* memory;
    size_t bytes;
  };

  uint64_t peer_address(ncclWindow_t window, size_t offset, uint32_t lsa_rank) const {
    void* address = nullptr;
    const ncclResult_t result = nccl().ncclGetLsaDevicePointer(window, offset, static_cast<int>(lsa_rank), &address);
    if (result != ncclSuccess || address == nullptr) {
      check(result, "ncclGetLsaDevicePointer", comm_);
      throw Error(ncclInternalError, "ncclGetLsaDevicePointer: NULL for LSA rank " + std::to_string(lsa_rank));
    }
    return reinterpret_cast<uint64_t>(address);
  }

  // NCCL maps its team at equal distances. peers() relies on that, so it is looked at when a window is registered.
  void check_stride(ncclWindow_t window) {
    const PeerWindow all = peers(window, 0);
    for (uint32_t r = 0; r < lsa_size_; ++r) {
      if (peer_address(window, 0, r) != all.base + r * all.stride) refuse_distances(r);
    }
  }

  [[noreturn]] static void refuse_distances(uint32_t lsa_rank) {
    throw Error(ncclInternalError, "NCCL " + version_text(nccl().version) +
                                       " maps the LSA team's memory at unequal distances (rank " +
                                       std::to_string(lsa_rank) + "), which this library does not expect");
  }

  ncclComm_t comm_;
  std::unique_ptr<CudaDevice> device_;
  ncclCommProperties properties_;
  uint32_t rank_;
  uint32_t num_ranks_;
  uint32_t lsa_size_;
  std::unique_ptr<DeviceBuffer> gathered_;
};

}  // namespace

std::unique_ptr<Communicator> open_communicator(ncclComm_t comm) {
  driver();  // says so when there is none, before NCCL does
  int ordinal = 0;
  check(nccl().ncclCommCuDevice(comm, &ordinal), "ncclCommCuDevice", comm);
  auto device = std::make_unique<CudaDevice>(ordinal);
  const ContextScope scope(device->context());
  const ncclCommProperties properties = query(comm);
  check_device_api(*device, properties);
  return std::make_unique<CudaCommunicator>(comm, std::move(device), properties);
}

}  // namespace nccl_ep::runtime::cuda

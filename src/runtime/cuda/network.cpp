// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/network.hpp"

#include <algorithm>
#include <string>

namespace nccl_ep::runtime::cuda {
namespace {

constexpr size_t kBytesBefore231 = 1024;  // 240 in 2.30.7
constexpr size_t kGuardBytes = 1024;
constexpr unsigned char kGuard = 0xa5;

class CudaNetwork final : public Network {
 public:
  CudaNetwork(ncclComm_t comm, CudaDevice& device, const ncclCommProperties& properties, const NetworkNeeds& needs)
      : comm_(comm),
        device_(device),
        needed_(requirements(nccl().version, properties, needs)),
        host_copy_(properties.devCommRuntimeVersionSize),
        memory_(device.allocate(host_copy_.size())),
        gin_{reinterpret_cast<uint64_t>(memory_),
             static_cast<uint32_t>(properties.rank),
             static_cast<uint32_t>(properties.nRanks),
             std::max(needs.num_contexts, 1u),
             needs.num_signals,
             needs.num_counters} {}

  ~CudaNetwork() override {
    if (is_connected_) quietly(device_.context(), [&] { nccl().ncclDevCommDestroy(comm_, host_copy_.get()); });
    device_.release(memory_);
  }
  CudaNetwork(const CudaNetwork&) = delete;
  CudaNetwork& operator=(const CudaNetwork&) = delete;

  void connect() override {
    {
      const ContextScope scope(device_.context());
      const RelaxedCaptureScope relaxed;
      finish(nccl().ncclDevCommCreate(comm_, &needed_, host_copy_.get()), "ncclDevCommCreate", comm_);
    }
    is_connected_ = true;
    host_copy_.check();
    device_.copy(memory_, host_copy_.get(), host_copy_.size(), device_.own_stream());
    device_.synchronize(device_.own_stream());
  }

  const GinComm& comm() const override { return gin_; }

 private:
  ncclComm_t comm_;
  CudaDevice& device_;
  ncclDevCommRequirements needed_;
  DevCommBuffer host_copy_;  // as NCCL wrote it, and wants it back
  void* memory_;             // the same for kernels
  GinComm gin_;
  bool is_connected_ = false;
};

}  // namespace

DevCommBuffer::DevCommBuffer(size_t bytes) : memory_((bytes == 0 ? kBytesBefore231 : bytes) + kGuardBytes, kGuard) {}

size_t DevCommBuffer::size() const { return memory_.size() - kGuardBytes; }

void DevCommBuffer::check() const {
  const bool is_intact = std::all_of(memory_.begin() + static_cast<ptrdiff_t>(size()), memory_.end(),
                                     [](unsigned char byte) { return byte == kGuard; });
  if (is_intact) return;
  throw Error(ncclInternalError, "NCCL wrote a device communicator of more than " + std::to_string(size()) +
                                     " bytes, expected at most that");
}

ncclDevCommRequirements requirements(int nccl_version, const ncclCommProperties& properties,
                                     const NetworkNeeds& needs) {
  ncclDevCommRequirements needed{};
  needed.magic = NCCL_API_MAGIC;
  // A communicator connects once, and later users of it may need all ranks: rails alone are asked for where there are no more.
  const bool railed = needs.reach == NetworkNeeds::Reach::rail && properties.ginType == NCCL_GIN_TYPE_NONE;
  const int gin_type = railed ? properties.railedGinType : properties.ginType;
  needed.ginConnectionType = railed ? NCCL_GIN_CONNECTION_RAIL : NCCL_GIN_CONNECTION_FULL;
  needed.ginContextCount = static_cast<int>(std::max(needs.num_contexts, 1u));
  needed.ginSignalCount = static_cast<int>(needs.num_signals);
  needed.ginCounterCount = static_cast<int>(needs.num_counters);
  needed.ginTrafficClass = NCCL_CONFIG_UNDEF_INT;
  needed.ginStrongSignalsRequired = true;
  needed.ginVaSignalsRequired = true;
  if (nccl_version < kNccl231) {
    // Kernels are compiled with this very version's headers.
    needed.version = static_cast<unsigned int>(nccl_version);
    needed.size = offsetof(ncclDevCommRequirements, ginCustomStride);
    return needed;
  }
  needed.version = static_cast<unsigned int>(std::min(nccl_version, kDeclaredNccl));
  needed.size = sizeof(needed);
  needed.useRuntimeVersion = true;
  needed.ginCustomStride = 1;
  // NCCL's first choice, unless kernels are not compiled for it.
  const bool is_first_choice = gin_type == NCCL_GIN_TYPE_PROXY || gin_type == NCCL_GIN_TYPE_GDAKI;
  needed.ginType = is_first_choice ? NCCL_GIN_TYPE_NONE : NCCL_GIN_TYPE_PROXY;
  return needed;
}

std::unique_ptr<Network> make_network(ncclComm_t comm, CudaDevice& device, const ncclCommProperties& properties,
                                      const NetworkNeeds& needs) {
  return std::make_unique<CudaNetwork>(comm, device, properties, needs);
}

}  // namespace nccl_ep::runtime::cuda

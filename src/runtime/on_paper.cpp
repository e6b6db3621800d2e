// SPDX-License-Identifier: Apache-2.0
#include "runtime/on_paper.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace nccl_ep::runtime {
namespace {

// Addresses of device memory are told apart and never read: each piece lies behind the one before.
class Addresses {
 public:
  void* take(size_t bytes) {
    const uint64_t address = next_;
    next_ = align_up(next_ + bytes, kAlign);
    return reinterpret_cast<void*>(address);
  }

 private:
  static constexpr uint64_t kAlign = 256;
  uint64_t next_ = uint64_t{1} << 40;
};

class DeviceOnPaper : public Device {
 public:
  DeviceOnPaper(const DeviceLimits& limits, MemoryCount& count) : limits_(limits), count_(count) {}

  const DeviceLimits& limits() const override { return limits_; }
  void* allocate(size_t bytes) override {
    count_.device += bytes;
    return addresses_.take(bytes);
  }
  void release(void*) noexcept override {}
  // The host does write there.
  void* allocate_host(size_t bytes) override {
    void* memory = std::calloc(1, bytes);
    if (!memory) throw std::bad_alloc();
    count_.host += bytes;
    return memory;
  }
  void release_host(void* memory) noexcept override { std::free(memory); }
  void fill(void*, uint8_t, size_t, cudaStream_t) override {}
  void copy(void*, const void*, size_t, cudaStream_t) override {}
  cudaStream_t own_stream() override { return nullptr; }
  void synchronize(cudaStream_t) override {}
  bool is_capturing(cudaStream_t) override { return false; }
  // Any kernel is there, and fits.
  Kernel* builtin_kernel(std::string_view) override { return static_cast<Kernel*>(addresses_.take(1)); }
  Kernel* load_kernel(std::string_view, const std::string& name) override { return builtin_kernel(name); }
  uint32_t blocks_per_sm(Kernel*, const LaunchShape&) override { return 1; }
  void launch(Kernel*, const LaunchShape&, const void*, size_t, cudaStream_t) override {}

 private:
  DeviceLimits limits_;
  MemoryCount& count_;
  Addresses addresses_;
};

// NCCL's own memory, which nobody here can count.
class NetworkOnPaper : public Network {
 public:
  explicit NetworkOnPaper(const NetworkNeeds& needs) { comm_.num_contexts = std::max(needs.num_contexts, 1u); }

  void connect() override {}
  const GinComm& comm() const override { return comm_; }

 private:
  GinComm comm_{};
};

class CommunicatorOnPaper : public Communicator {
 public:
  CommunicatorOnPaper(const RanksOnPaper& ranks, const DeviceLimits& limits, MemoryCount& count)
      : ranks_(ranks), count_(count), device_(limits, count) {}

  Device& device() override { return device_; }
  uint32_t rank() const override { return 0; }
  uint32_t num_ranks() const override { return ranks_.num_ranks; }
  uint32_t lsa_rank() const override { return 0; }
  uint32_t lsa_size() const override { return ranks_.team_size; }
  void* allocate_symmetric(size_t bytes) override {
    count_.window += bytes;
    return addresses_.take(bytes);
  }
  void release_symmetric(void*) noexcept override {}
  ncclWindow_t register_window(void* memory, size_t) override { return static_cast<ncclWindow_t>(memory); }
  void deregister_window(ncclWindow_t) noexcept override {}
  PeerWindow peers(ncclWindow_t, size_t) override { return {}; }
  std::unique_ptr<Network> make_network(const NetworkNeeds& needs) override {
    return std::make_unique<NetworkOnPaper>(needs);
  }
  void all_gather(const void* in, void* out, size_t bytes) override {
    for (uint32_t rank = 0; rank < ranks_.num_ranks; ++rank) {
      std::memcpy(static_cast<unsigned char*>(out) + rank * bytes, in, bytes);
    }
  }

 private:
  RanksOnPaper ranks_;
  MemoryCount& count_;
  DeviceOnPaper device_;
  Addresses addresses_;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator_on_paper(const RanksOnPaper& ranks, const DeviceLimits& limits,
                                                         MemoryCount& count) {
  return std::make_unique<CommunicatorOnPaper>(ranks, limits, count);
}

}  // namespace nccl_ep::runtime

// SPDX-License-Identifier: Apache-2.0
// Owners of memory: each releases what it holds when it goes, by the way it came.
#pragma once

#include <utility>

#include "nccl_ep.h"
#include "runtime/runtime.hpp"

namespace nccl_ep::core {

// Device memory through the caller's functions when the group's configuration has some, else through the device.
class Allocator {
 public:
  Allocator(runtime::Device& device, const ncclEpAllocConfig_t& config) : device_(device), config_(config) {}
  void* allocate(size_t bytes, const char* purpose);
  void release(void* memory) noexcept;

 private:
  runtime::Device& device_;
  ncclEpAllocConfig_t config_;
};

// One piece of memory and the way to give it back.
template <class Owner, void (*kRelease)(Owner&, void*)>
class Memory {
 public:
  Memory() = default;
  Memory(Owner& owner, void* data) : owner_(&owner), data_(data) {}
  Memory(Memory&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Memory() {
    if (owner_) kRelease(*owner_, data_);
  }
  // Memory that somebody else owns.
  static Memory borrowed(void* data) {
    Memory memory;
    memory.data_ = data;
    return memory;
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Owner* owner_ = nullptr;
  void* data_ = nullptr;
};

inline void release_device(Allocator& owner, void* data) { owner.release(data); }
inline void release_host(runtime::Device& owner, void* data) { owner.release_host(data); }
using DeviceMemory = Memory<Allocator, release_device>;
using HostMemory = Memory<runtime::Device, release_host>;

// Symmetric memory and the window over it. Every rank allocates before any opens the window: one that has no memory would
// let the others wait. They go together, too.
class SymmetricMemory {
 public:
  SymmetricMemory() = default;
  SymmetricMemory(runtime::Communicator& comm, size_t bytes);
  SymmetricMemory(SymmetricMemory&& other) noexcept { *this = std::move(other); }
  SymmetricMemory& operator=(SymmetricMemory&& other) noexcept;
  ~SymmetricMemory();

  // Collective.
  void open() { window_ = comm_->register_window(data_, bytes_); }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  ncclWindow_t window() const { return window_; }

 private:
  runtime::Communicator* comm_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  ncclWindow_t window_ = nullptr;
};

}  // namespace nccl_ep::core

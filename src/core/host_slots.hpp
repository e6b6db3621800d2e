// SPDX-License-Identifier: Apache-2.0
// Small pieces of pinned host memory: getting some from the driver, or giving it back, may wait for the device.
#pragma once

#include <utility>
#include <vector>

#include "core/memory.hpp"

namespace nccl_ep::core {

template <class T>
class HostSlots {
 public:
  // One of the slots, for as long as this object lives.
  class Slot {
   public:
    explicit Slot(HostSlots& owner) : owner_(owner), data_(owner.take()) { *data_ = T{}; }
    ~Slot() { owner_.free_.push_back(data_); }
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    T* data() const { return data_; }

   private:
    HostSlots& owner_;
    T* data_;
  };

  explicit HostSlots(runtime::Device& device) : device_(device) {}

 private:
  static constexpr size_t kSlotsPerChunk = 64;

  T* take() {
    if (free_.empty()) grow();
    T* slot = free_.back();
    free_.pop_back();
    return slot;
  }

  void grow() {
    HostMemory chunk(device_, device_.allocate_host(kSlotsPerChunk * sizeof(T)));
    free_.reserve((chunks_.size() + 1) * kSlotsPerChunk);  // so that giving a slot back needs no memory
    for (size_t i = 0; i < kSlotsPerChunk; ++i) free_.push_back(chunk.as<T>() + i);
    chunks_.push_back(std::move(chunk));
  }

  runtime::Device& device_;
  std::vector<HostMemory> chunks_;
  std::vector<T*> free_;
};

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
#include "core/memory.hpp"

#include <string>

namespace nccl_ep::core {

void* Allocator::allocate(size_t bytes, const char* purpose) {
  if (!config_.alloc_fn) return device_.allocate(bytes);
  void* memory = nullptr;
  const cudaError_t error = config_.alloc_fn(&memory, bytes, config_.context);
  if (error != cudaSuccess || !memory) {
    throw Error(ncclUnhandledCudaError, "config.alloc.alloc_fn returned " + std::to_string(static_cast<int>(error)) +
                                            (error == cudaSuccess ? " and NULL" : "") + " for " +
                                            std::to_string(bytes) + " bytes of " + purpose +
                                            ", expected cudaSuccess (0) and memory");
  }
  return memory;
}

void Allocator::release(void* memory) noexcept {
  if (config_.free_fn) {
    config_.free_fn(memory, config_.context);
  } else {
    device_.release(memory);
  }
}

SymmetricMemory::SymmetricMemory(runtime::Communicator& comm, size_t bytes)
    : comm_(&comm), data_(comm.allocate_symmetric(bytes)), bytes_(bytes) {}

SymmetricMemory& SymmetricMemory::operator=(SymmetricMemory&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(window_, other.window_);
  return *this;
}

SymmetricMemory::~SymmetricMemory() {
  if (!comm_) return;
  if (window_) comm_->deregister_window(window_);
  comm_->release_symmetric(data_);
}

}  // namespace nccl_ep::core

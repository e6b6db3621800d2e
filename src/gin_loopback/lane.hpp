// SPDX-License-Identifier: Apache-2.0
// A stream of copies. All are done by copy engines: kernels that wait for the data may occupy every SM.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "gin_loopback/driver.hpp"

namespace nccl_ep::loopback {

struct Copy {
  enum class Kind {
    kDirect,   // between GPUs
    kBounced,  // inside a GPU: by way of host memory, since CUDA may use a kernel for it otherwise
    kInline,   // of up to 8 bytes that came with the request
  };
  Kind kind = Kind::kDirect;
  CUdeviceptr dst = 0;
  CUdeviceptr src = 0;
  uint64_t inline_value = 0;
  uint64_t bytes = 0;
};

// Made, used and destroyed with the same context current.
class Lane {
 public:
  static std::unique_ptr<Lane> open();
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  bool is_full() const { return num_started_ - num_landed_ == kDepth; }
  // `landed` becomes true in some later collect(). The lane is not full.
  void start(const Copy& copy, bool* landed);
  void collect();
  // Waits for the copies that have been started.
  void synchronize();

 private:
  static constexpr uint64_t kDepth = 256;
  static constexpr uint64_t kBounceBytes = 256 * 1024;
  struct Slot {
    CUevent landed = nullptr;
    bool* told = nullptr;
  };

  Lane() = default;
  void copy(CUdeviceptr dst, CUdeviceptr src, uint64_t bytes);
  void bounce(const Copy& copy);

  CUstream stream_ = nullptr;
  std::array<Slot, kDepth> slots_;
  uint64_t* inline_values_ = nullptr;  // of the slots
  char* bounce_buffer_ = nullptr;
  uint64_t num_started_ = 0;
  uint64_t num_landed_ = 0;
};

}  // namespace nccl_ep::loopback

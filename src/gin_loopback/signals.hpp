// SPDX-License-Identifier: Apache-2.0
// Adds arrived signals to this rank's memory.
#pragma once

#include <cstdint>
#include <memory>

#include "gin_loopback/memory.hpp"

namespace nccl_ep::loopback {

// Made, used and destroyed with the same context current.
class SignalWriter {
 public:
  static std::unique_ptr<SignalWriter> open();
  ~SignalWriter();
  SignalWriter(const SignalWriter&) = delete;
  SignalWriter& operator=(const SignalWriter&) = delete;

  // What has landed in the GPU's memory by now is seen by whoever sees the new value.
  void add(Memory& memory, uint64_t offset, uint64_t value);
  // Waits for the writes so far.
  void synchronize();

 private:
  SignalWriter() = default;
  uint64_t read(CUdeviceptr word);

  CUstream stream_ = nullptr;
  uint64_t* pinned_ = nullptr;
};

}  // namespace nccl_ep::loopback

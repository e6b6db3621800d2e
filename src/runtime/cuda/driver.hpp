// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, loaded at run time.
#pragma once

#include <string>

#include "runtime/cuda/cuda_types.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::runtime::cuda {

struct Driver {
#define NCCL_EP_CUDA_FUNCTION(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  NCCL_EP_CUDA_FUNCTIONS(NCCL_EP_CUDA_FUNCTION)
#undef NCCL_EP_CUDA_FUNCTION
};

// Loads and initialises the driver on first use. Throws Error(ncclSystemError) where there is none.
const Driver& driver();

// Throws Error(ncclUnhandledCudaError) with the driver's name and text of the failure; `what` is what was
// tried.
void check(CUresult result, const char* what);
// The same with a driver that is given.
void check(const Driver& cu, CUresult result, const std::string& what);

int attribute(const Driver& cu, CUdevice device, CUdevice_attribute which);

// Makes a context current for the duration of a scope. Costs one call into the driver when it already is.
class ContextScope {
 public:
  explicit ContextScope(CUcontext context);
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  bool pushed_ = false;
};

// Lets this thread allocate and load while some stream is captured; without it that would spoil the capture.
class RelaxedCaptureScope {
 public:
  RelaxedCaptureScope() { exchange(); }
  ~RelaxedCaptureScope() { exchange(); }
  RelaxedCaptureScope(const RelaxedCaptureScope&) = delete;
  RelaxedCaptureScope& operator=(const RelaxedCaptureScope&) = delete;

 private:
  void exchange() noexcept { driver().cuThreadExchangeStreamCaptureMode(&mode_); }

  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

// For releasing: calls the function with the context current, and does nothing when the driver is going away.
template <class Function>
void quietly(CUcontext context, Function function) noexcept {
  CUcontext popped = nullptr;
  if (driver().cuCtxPushCurrent(context) != CUDA_SUCCESS) return;
  {
    const RelaxedCaptureScope relaxed;
    function();
  }
  driver().cuCtxPopCurrent(&popped);
}

}  // namespace nccl_ep::runtime::cuda

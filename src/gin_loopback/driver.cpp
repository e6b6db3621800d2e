// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/driver.hpp"

#include <dlfcn.h>

#include <string>

#include "gin_loopback/log.hpp"
#include "runtime/cuda/failure.hpp"

namespace nccl_ep::loopback {
namespace {

// What the program itself defines comes first: tests have a driver of their own.
void* open_library() {
  if (dlsym(RTLD_DEFAULT, "cuInit") != nullptr) return RTLD_DEFAULT;
  if (void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) return library;
  throw Error(ncclSystemError, std::string("the CUDA driver was not found: ") + dlerror());
}

template <class Function>
void bind(void* library, Function*& function, const char* symbol) {
  function = reinterpret_cast<Function*>(dlsym(library, symbol));
  if (function == nullptr) {
    throw Error(ncclSystemError, std::string("the CUDA driver has no ") + symbol + ": it is too old");
  }
}

Driver load_driver() {
  void* library = open_library();
  Driver loaded;
#define NCCL_EP_CUDA_FUNCTION(name, symbol, parameters) bind(library, loaded.name, #symbol);
  NCCL_EP_CUDA_FUNCTIONS(NCCL_EP_CUDA_FUNCTION)
#undef NCCL_EP_CUDA_FUNCTION
  if (const CUresult result = loaded.cuInit(0); result != CUDA_SUCCESS) {
    throw Error(ncclUnhandledCudaError, "cuInit: " + runtime::cuda::describe(loaded, result));
  }
  return loaded;
}

}  // namespace

const Driver& driver() {
  static const Driver loaded = load_driver();
  return loaded;
}

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  throw Error(ncclUnhandledCudaError, std::string(what) + ": " + runtime::cuda::describe(driver(), result));
}

CUcontext current_context() {
  CUcontext context = nullptr;
  check(driver().cuCtxGetCurrent(&context), "cuCtxGetCurrent");
  if (context == nullptr) throw Error(ncclInvalidUsage, "the calling thread has no CUDA context");
  return context;
}

ContextScope::ContextScope(CUcontext context) noexcept
    : is_pushed_(driver().cuCtxPushCurrent(context) == CUDA_SUCCESS) {
  driver().cuThreadExchangeStreamCaptureMode(&capture_mode_);
}

ContextScope::~ContextScope() {
  CUcontext popped = nullptr;
  driver().cuThreadExchangeStreamCaptureMode(&capture_mode_);
  if (is_pushed_) driver().cuCtxPopCurrent(&popped);
}

CUstream make_stream() {
  int least_urgent = 0;
  int most_urgent = 0;
  check(driver().cuCtxGetStreamPriorityRange(&least_urgent, &most_urgent), "cuCtxGetStreamPriorityRange");
  CUstream stream = nullptr;
  check(driver().cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, most_urgent),
        "cuStreamCreateWithPriority");
  return stream;
}

}  // namespace nccl_ep::loopback

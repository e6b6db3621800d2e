// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/driver.hpp"

#include <string>

#include "runtime/library.hpp"

namespace nccl_ep::runtime::cuda {
namespace {

Driver load_driver() {
  const Library library = Library::open({"The CUDA driver", {"libcuda.so.1"}, {}, "cuInit", "install NVIDIA's driver"});
  Driver loaded;
#define NCCL_EP_CUDA_FUNCTION(name, symbol, parameters) library.bind(loaded.name, #symbol);
  NCCL_EP_CUDA_FUNCTIONS(NCCL_EP_CUDA_FUNCTION)
#undef NCCL_EP_CUDA_FUNCTION
  const CUresult result = loaded.cuInit(0);
  if (result != CUDA_SUCCESS) {
    const char* name = nullptr;
    loaded.cuGetErrorName(result, &name);
    throw Error(ncclUnhandledCudaError,
                std::string("cuInit: ") + (name ? name : "unknown error") + " (" + library.path() + ")");
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
  const char* name = nullptr;
  const char* text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  throw Error(ncclUnhandledCudaError, std::string(what) + ": " + (name ? name : "unknown CUDA error") + " (" +
                                          std::to_string(result) + "): " + (text ? text : "no description"));
}

ContextScope::ContextScope(CUcontext context) {
  CUcontext current = nullptr;
  driver().cuCtxGetCurrent(&current);
  if (current == context) return;
  check(driver().cuCtxPushCurrent(context), "cuCtxPushCurrent");
  pushed_ = true;
}

ContextScope::~ContextScope() {
  CUcontext popped = nullptr;
  if (pushed_) driver().cuCtxPopCurrent(&popped);
}

}  // namespace nccl_ep::runtime::cuda

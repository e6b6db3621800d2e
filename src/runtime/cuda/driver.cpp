// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/driver.hpp"

#include "runtime/cuda/failure.hpp"
#include "runtime/library.hpp"

namespace nccl_ep::runtime::cuda {
namespace {

Driver load_driver() {
  const Library library = Library::open({"The CUDA driver", {"libcuda.so.1"}, {}, "cuInit", "install NVIDIA's driver"});
  Driver loaded;
#define NCCL_EP_CUDA_FUNCTION(name, symbol, parameters) library.bind(loaded.name, #symbol);
  NCCL_EP_CUDA_FUNCTIONS(NCCL_EP_CUDA_FUNCTION)
#undef NCCL_EP_CUDA_FUNCTION
  if (const CUresult result = loaded.cuInit(0); result != CUDA_SUCCESS) {
    throw Error(ncclUnhandledCudaError, "cuInit of " + library.path() + ": " + describe(loaded, result));
  }
  return loaded;
}

}  // namespace

const Driver& driver() {
  static const Driver loaded = load_driver();
  return loaded;
}

void check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) check(driver(), result, what);
}

void check(const Driver& cu, CUresult result, const std::string& what) {
  if (result != CUDA_SUCCESS) throw Error(ncclUnhandledCudaError, what + ": " + describe(cu, result));
}

int attribute(const Driver& cu, CUdevice device, CUdevice_attribute which) {
  int value = 0;
  check(cu, cu.cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
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

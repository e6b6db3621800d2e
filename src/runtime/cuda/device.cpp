// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/device.hpp"

#include <algorithm>

#include "runtime/visible_gpus.hpp"

namespace nccl_ep::runtime::cuda {

// What a runtime::Kernel* of this device points at.
struct CudaKernel {
  std::string name;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  size_t shared_limit = 0;  // dynamic shared memory that has been opted in to
};

namespace {

CudaKernel& cuda_kernel(Kernel* kernel) { return *reinterpret_cast<CudaKernel*>(kernel); }

CUdeviceptr address(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }

int attribute(CUdevice device, CUdevice_attribute which) { return attribute(driver(), device, which); }

std::string arch_of(CUdevice device) {
  return arch_name(attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                   attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
}

}  // namespace

std::string arch_name(int major, int minor) {
  if (major < 9) {
    throw Error(ncclInvalidUsage, "the GPU's compute capability is " + std::to_string(major) + "." +
                                      std::to_string(minor) + ", expected 9.0 (Hopper) or later");
  }
  return "sm_" + std::to_string(major) + std::to_string(minor) + "a";
}

CudaDevice::CudaDevice(int ordinal) {
  const Driver& cu = driver();
  check(cu.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
  limits_.arch = arch_of(device_);
  limits_.num_sms = static_cast<uint32_t>(attribute(device_, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  limits_.max_threads_per_block = static_cast<uint32_t>(attribute(device_, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
  limits_.max_shared_bytes_per_block =
      static_cast<size_t>(attribute(device_, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
  check(cu.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
  try {
    const ContextScope scope(context_);
    check(cu.cuStreamCreate(&own_stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  } catch (...) {
    cu.cuDevicePrimaryCtxRelease(device_);
    throw;
  }
}

CudaDevice::~CudaDevice() {
  quietly(context_, [&] {
    for (const auto& kernel : kernels_) driver().cuModuleUnload(kernel->module);
    driver().cuStreamDestroy(own_stream_);
  });
  driver().cuDevicePrimaryCtxRelease(device_);
}

bool CudaDevice::has_rdma_for_windows() const {
  return attribute(device_, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED) != 0;
}

// ---- memory

void* CudaDevice::allocate(size_t bytes) {
  const ContextScope scope(context_);
  const RelaxedCaptureScope relaxed;
  CUdeviceptr memory = 0;
  check(driver().cuMemAlloc(&memory, bytes), ("allocating " + std::to_string(bytes) + " bytes on the GPU").c_str());
  return reinterpret_cast<void*>(memory);
}

void CudaDevice::release(void* memory) noexcept {
  if (memory == nullptr) return;
  quietly(context_, [&] { driver().cuMemFree(address(memory)); });
}

void* CudaDevice::allocate_host(size_t bytes) {
  const ContextScope scope(context_);
  const RelaxedCaptureScope relaxed;
  void* memory = nullptr;
  check(driver().cuMemHostAlloc(&memory, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP),
        ("allocating " + std::to_string(bytes) + " bytes of pinned host memory").c_str());
  return memory;
}

void CudaDevice::release_host(void* memory) noexcept {
  if (memory == nullptr) return;
  quietly(context_, [&] { driver().cuMemFreeHost(memory); });
}

void CudaDevice::fill(void* dst, uint8_t value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  const ContextScope scope(context_);
  check(driver().cuMemsetD8Async(address(dst), value, bytes, stream), "cuMemsetD8Async");
}

void CudaDevice::copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  const ContextScope scope(context_);
  check(driver().cuMemcpyAsync(address(dst), address(src), bytes, stream), "cuMemcpyAsync");
}

// ---- streams

void CudaDevice::synchronize(cudaStream_t stream) {
  const ContextScope scope(context_);
  const RelaxedCaptureScope relaxed;
  check(driver().cuStreamSynchronize(stream), "cuStreamSynchronize");
}

bool CudaDevice::is_capturing(cudaStream_t stream) {
  const ContextScope scope(context_);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  check(driver().cuStreamIsCapturing(stream, &status), "cuStreamIsCapturing");
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// ---- kernels

Kernel* CudaDevice::builtin_kernel(std::string_view) { return nullptr; }

Kernel* CudaDevice::load_kernel(std::string_view binary, const std::string& name) {
  const ContextScope scope(context_);
  const RelaxedCaptureScope relaxed;
  const Driver& cu = driver();
  auto kernel = std::make_unique<CudaKernel>();
  kernel->name = name;
  check(cu.cuModuleLoadData(&kernel->module, binary.data()), ("loading kernel " + name).c_str());
  const CUresult found = cu.cuModuleGetFunction(&kernel->function, kernel->module, name.c_str());
  if (found != CUDA_SUCCESS) {
    cu.cuModuleUnload(kernel->module);
    check(found, ("finding kernel " + name + " in its module").c_str());
  }
  kernels_.push_back(std::move(kernel));
  return reinterpret_cast<Kernel*>(kernels_.back().get());
}

uint32_t CudaDevice::blocks_per_sm(Kernel* kernel, const LaunchShape& shape) {
  const ContextScope scope(context_);
  CudaKernel& it = cuda_kernel(kernel);
  if (shape.shared_bytes > it.shared_limit) {
    check(driver().cuFuncSetAttribute(it.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                      static_cast<int>(shape.shared_bytes)),
          ("asking for " + std::to_string(shape.shared_bytes) + " bytes of shared memory for " + it.name).c_str());
    it.shared_limit = shape.shared_bytes;
  }
  int blocks = 0;
  check(driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, it.function, static_cast<int>(shape.num_threads),
                                                             shape.shared_bytes),
        ("the occupancy of " + it.name).c_str());
  return static_cast<uint32_t>(blocks);
}

void CudaDevice::launch(Kernel* kernel, const LaunchShape& shape, const void* args, size_t /*args_bytes*/,
                        cudaStream_t stream) {
  const ContextScope scope(context_);
  const CudaKernel& it = cuda_kernel(kernel);
  void* parameters[] = {const_cast<void*>(args)};  // the module knows the size
  const CUresult result =
      driver().cuLaunchKernel(it.function, shape.num_blocks, 1, 1, shape.num_threads, 1, 1,
                              static_cast<unsigned int>(shape.shared_bytes), stream, parameters, nullptr);
  if (result != CUDA_SUCCESS) check(result, ("launching " + it.name).c_str());
}

}  // namespace nccl_ep::runtime::cuda

std::vector<std::string> nccl_ep::runtime::visible_archs() {
  using namespace cuda;
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "cuDeviceGetCount");
  std::vector<std::string> archs;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    CUdevice device = 0;
    check(driver().cuDeviceGet(&device, ordinal), "cuDeviceGet");
    const std::string arch = arch_of(device);
    if (std::find(archs.begin(), archs.end(), arch) == archs.end()) archs.push_back(arch);
  }
  return archs;
}

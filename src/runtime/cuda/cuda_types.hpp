// SPDX-License-Identifier: Apache-2.0
// The part of the CUDA driver API that we use, declared by us. Names, sizes and values are the real header's;
// tests/abi/test_cuda_declarations.py compares them.
#pragma once

#include <cstddef>

#include "runtime/nccl_types.hpp"

namespace nccl_ep::runtime::cuda {

using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = cudaStream_t;
using CUmemGenericAllocationHandle = unsigned long long;

// Only the codes that are named here or in tests; the driver names the others.
enum cudaError_enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
};
using CUresult = cudaError_enum;

enum CUdevice_attribute_enum {
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102,
  CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED = 110,
  CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID = 134,
};
using CUdevice_attribute = CUdevice_attribute_enum;

enum CUfunction_attribute_enum { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
using CUfunction_attribute = CUfunction_attribute_enum;

enum CUstreamCaptureStatus_enum {
  CU_STREAM_CAPTURE_STATUS_NONE = 0,
  CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
  CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2,
};
using CUstreamCaptureStatus = CUstreamCaptureStatus_enum;

enum CUstreamCaptureMode_enum { CU_STREAM_CAPTURE_MODE_RELAXED = 2 };
using CUstreamCaptureMode = CUstreamCaptureMode_enum;

enum CUstream_flags_enum { CU_STREAM_NON_BLOCKING = 1 };

inline constexpr unsigned int CU_MEMHOSTALLOC_PORTABLE = 1;
inline constexpr unsigned int CU_MEMHOSTALLOC_DEVICEMAP = 2;

enum CUmemAllocationType_enum { CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
using CUmemAllocationType = CUmemAllocationType_enum;

enum CUmemAllocationHandleType_enum { CU_MEM_HANDLE_TYPE_NONE = 0 };
using CUmemAllocationHandleType = CUmemAllocationHandleType_enum;

enum CUmemAllocationGranularity_flags_enum { CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0 };
using CUmemAllocationGranularity_flags = CUmemAllocationGranularity_flags_enum;

enum CUmemLocationType_enum {
  CU_MEM_LOCATION_TYPE_DEVICE = 1,
  CU_MEM_LOCATION_TYPE_HOST_NUMA = 3,
};
using CUmemLocationType = CUmemLocationType_enum;

struct CUmemLocation_st {
  CUmemLocationType type;
  int id;
};
using CUmemLocation = CUmemLocation_st;

struct CUmemAllocationProp_st {
  CUmemAllocationType type;
  CUmemAllocationHandleType requestedHandleTypes;
  CUmemLocation location;
  void* win32HandleMetaData;
  unsigned char allocFlags[8];  // none of which we set
};
using CUmemAllocationProp = CUmemAllocationProp_st;

enum CUmemAccess_flags_enum { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
using CUmemAccess_flags = CUmemAccess_flags_enum;

struct CUmemAccessDesc_st {
  CUmemLocation location;
  CUmemAccess_flags flags;
};
using CUmemAccessDesc = CUmemAccessDesc_st;

// X(name, exported symbol, parameters)
#define NCCL_EP_CUDA_FUNCTIONS(X)                                                                                      \
  X(cuInit, cuInit, (unsigned int))                                                                                    \
  X(cuGetErrorName, cuGetErrorName, (CUresult, const char**))                                                          \
  X(cuGetErrorString, cuGetErrorString, (CUresult, const char**))                                                      \
  X(cuDeviceGet, cuDeviceGet, (CUdevice*, int))                                                                        \
  X(cuDeviceGetCount, cuDeviceGetCount, (int*))                                                                        \
  X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int*, CUdevice_attribute, CUdevice))                                  \
  X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                                        \
  X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                               \
  X(cuCtxGetCurrent, cuCtxGetCurrent, (CUcontext*))                                                                    \
  X(cuCtxPushCurrent, cuCtxPushCurrent_v2, (CUcontext))                                                                \
  X(cuCtxPopCurrent, cuCtxPopCurrent_v2, (CUcontext*))                                                                 \
  X(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr*, size_t))                                                                 \
  X(cuMemFree, cuMemFree_v2, (CUdeviceptr))                                                                            \
  X(cuMemHostAlloc, cuMemHostAlloc, (void**, size_t, unsigned int))                                                    \
  X(cuMemFreeHost, cuMemFreeHost, (void*))                                                                             \
  X(cuDeviceCanAccessPeer, cuDeviceCanAccessPeer, (int*, CUdevice, CUdevice))                                          \
  X(cuMemGetAllocationGranularity, cuMemGetAllocationGranularity,                                                      \
    (size_t*, const CUmemAllocationProp*, CUmemAllocationGranularity_flags))                                           \
  X(cuMemCreate, cuMemCreate, (CUmemGenericAllocationHandle*, size_t, const CUmemAllocationProp*, unsigned long long)) \
  X(cuMemRelease, cuMemRelease, (CUmemGenericAllocationHandle))                                                        \
  X(cuMemAddressReserve, cuMemAddressReserve, (CUdeviceptr*, size_t, size_t, CUdeviceptr, unsigned long long))         \
  X(cuMemAddressFree, cuMemAddressFree, (CUdeviceptr, size_t))                                                         \
  X(cuMemMap, cuMemMap, (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long))               \
  X(cuMemUnmap, cuMemUnmap, (CUdeviceptr, size_t))                                                                     \
  X(cuMemSetAccess, cuMemSetAccess, (CUdeviceptr, size_t, const CUmemAccessDesc*, size_t))                             \
  X(cuMemsetD8Async, cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream))                                  \
  X(cuMemcpyAsync, cuMemcpyAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                        \
  X(cuStreamCreate, cuStreamCreate, (CUstream*, unsigned int))                                                         \
  X(cuStreamDestroy, cuStreamDestroy_v2, (CUstream))                                                                   \
  X(cuStreamSynchronize, cuStreamSynchronize, (CUstream))                                                              \
  X(cuStreamIsCapturing, cuStreamIsCapturing, (CUstream, CUstreamCaptureStatus*))                                      \
  X(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode*))                      \
  X(cuModuleLoadData, cuModuleLoadData, (CUmodule*, const void*))                                                      \
  X(cuModuleUnload, cuModuleUnload, (CUmodule))                                                                        \
  X(cuModuleGetFunction, cuModuleGetFunction, (CUfunction*, CUmodule, const char*))                                    \
  X(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction, CUfunction_attribute, int))                                   \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor,                          \
    (int*, CUfunction, int, size_t))                                                                                   \
  X(cuLaunchKernel, cuLaunchKernel,                                                                                    \
    (CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,     \
     CUstream, void**, void**))

}  // namespace nccl_ep::runtime::cuda

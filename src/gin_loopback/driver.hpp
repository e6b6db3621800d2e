// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, loaded at run time: the part of its interface that we use, declared by us. Names, sizes and values
// are the real header's; tests/abi/test_cuda_declarations.py compares them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nccl_ep::loopback {

using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUmemGenericAllocationHandle = unsigned long long;

// Only the codes that we look at; the driver names the others.
enum cudaError_enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_NOT_READY = 600,
};
using CUresult = cudaError_enum;

enum CUstream_flags_enum { CU_STREAM_NON_BLOCKING = 1 };
enum CUevent_flags_enum { CU_EVENT_DISABLE_TIMING = 2 };
inline constexpr unsigned int CU_MEMHOSTALLOC_PORTABLE = 1;

enum CUstreamCaptureMode_enum { CU_STREAM_CAPTURE_MODE_RELAXED = 2 };
using CUstreamCaptureMode = CUstreamCaptureMode_enum;

enum CUmemAllocationHandleType_enum { CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1 };
using CUmemAllocationHandleType = CUmemAllocationHandleType_enum;

enum CUmemLocationType_enum { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
using CUmemLocationType = CUmemLocationType_enum;

struct CUmemLocation_st {
  CUmemLocationType type;
  int id;
};
using CUmemLocation = CUmemLocation_st;

enum CUmemAccess_flags_enum { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
using CUmemAccess_flags = CUmemAccess_flags_enum;

struct CUmemAccessDesc_st {
  CUmemLocation location;
  CUmemAccess_flags flags;
};
using CUmemAccessDesc = CUmemAccessDesc_st;

// X(name, exported symbol, parameters)
#define NCCL_EP_CUDA_FUNCTIONS(X)                                                                              \
  X(cuInit, cuInit, (unsigned int))                                                                            \
  X(cuGetErrorName, cuGetErrorName, (CUresult, const char**))                                                  \
  X(cuGetErrorString, cuGetErrorString, (CUresult, const char**))                                              \
  X(cuCtxGetCurrent, cuCtxGetCurrent, (CUcontext*))                                                            \
  X(cuCtxPushCurrent, cuCtxPushCurrent_v2, (CUcontext))                                                        \
  X(cuCtxPopCurrent, cuCtxPopCurrent_v2, (CUcontext*))                                                         \
  X(cuCtxGetDevice, cuCtxGetDevice, (CUdevice*))                                                               \
  X(cuCtxGetStreamPriorityRange, cuCtxGetStreamPriorityRange, (int*, int*))                                    \
  X(cuStreamCreateWithPriority, cuStreamCreateWithPriority, (CUstream*, unsigned int, int))                    \
  X(cuStreamDestroy, cuStreamDestroy_v2, (CUstream))                                                           \
  X(cuStreamSynchronize, cuStreamSynchronize, (CUstream))                                                      \
  X(cuStreamWriteValue64, cuStreamWriteValue64_v2, (CUstream, CUdeviceptr, uint64_t, unsigned int))            \
  X(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode*))              \
  X(cuEventCreate, cuEventCreate, (CUevent*, unsigned int))                                                    \
  X(cuEventDestroy, cuEventDestroy_v2, (CUevent))                                                              \
  X(cuEventRecord, cuEventRecord, (CUevent, CUstream))                                                         \
  X(cuEventQuery, cuEventQuery, (CUevent))                                                                     \
  X(cuMemcpyAsync, cuMemcpyAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                \
  X(cuMemHostAlloc, cuMemHostAlloc, (void**, size_t, unsigned int))                                            \
  X(cuMemFreeHost, cuMemFreeHost, (void*))                                                                     \
  X(cuMemGetAddressRange, cuMemGetAddressRange_v2, (CUdeviceptr*, size_t*, CUdeviceptr))                       \
  X(cuMemRetainAllocationHandle, cuMemRetainAllocationHandle, (CUmemGenericAllocationHandle*, void*))          \
  X(cuMemRelease, cuMemRelease, (CUmemGenericAllocationHandle))                                                \
  X(cuMemExportToShareableHandle, cuMemExportToShareableHandle,                                                \
    (void*, CUmemGenericAllocationHandle, CUmemAllocationHandleType, unsigned long long))                      \
  X(cuMemImportFromShareableHandle, cuMemImportFromShareableHandle,                                            \
    (CUmemGenericAllocationHandle*, void*, CUmemAllocationHandleType))                                         \
  X(cuMemAddressReserve, cuMemAddressReserve, (CUdeviceptr*, size_t, size_t, CUdeviceptr, unsigned long long)) \
  X(cuMemAddressFree, cuMemAddressFree, (CUdeviceptr, size_t))                                                 \
  X(cuMemMap, cuMemMap, (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long))       \
  X(cuMemUnmap, cuMemUnmap, (CUdeviceptr, size_t))                                                             \
  X(cuMemSetAccess, cuMemSetAccess, (CUdeviceptr, size_t, const CUmemAccessDesc*, size_t))

struct Driver {
#define NCCL_EP_CUDA_FUNCTION(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  NCCL_EP_CUDA_FUNCTIONS(NCCL_EP_CUDA_FUNCTION)
#undef NCCL_EP_CUDA_FUNCTION
};

// Loads and initialises the driver on first use. Throws Error(ncclSystemError) where there is none.
const Driver& driver();

// Throws Error(ncclUnhandledCudaError) with the driver's name and text of the failure; `what` is what was tried.
void check(CUresult result, const char* what);

// The context that is current for the calling thread. Throws Error(ncclInvalidUsage) if there is none.
CUcontext current_context();

// Makes a context current for the duration of a scope: NCCL's progress threads have none. Captures of graphs that other
// threads are in the middle of are not spoiled. Where the driver refuses, as it does when the process is about to end, it
// will refuse what comes next.
class ContextScope {
 public:
  explicit ContextScope(CUcontext context) noexcept;
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  bool is_pushed_;
  CUstreamCaptureMode capture_mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

// A stream of the current context that waits for no other one, as urgent as they get.
CUstream make_stream();

}  // namespace nccl_ep::loopback

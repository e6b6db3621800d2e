// SPDX-License-Identifier: Apache-2.0
// Memory for received rows that begins on the GPU and goes on in the host (libnccl_ep).
//
// An output of High-Throughput dispatch must have room for the most rows that may arrive, which is far more than what
// usually does. Rows are written from the front. So a piece on the GPU for the usual ones and a piece in the host for
// the rest cost GPU memory for the usual case only, and the rare one is slow instead of impossible: what lies in the
// host is read and written at the speed of the link to it.
//
// It is one range of addresses, and kernels use all of it alike: this library's of both High-Throughput layouts, for any
// tensor of dispatch and combine that is given as `data`, and yours. It cannot be in a window, since NCCL registers
// memory of ncclMemAlloc, and zero_copy ON asks for windows.
//
// Conventions are those of nccl_ep.h; the message of a failure is in ncclEpGetLastError(NULL).
#ifndef NCCL_EP_ELASTIC_H_
#define NCCL_EP_ELASTIC_H_

#include "nccl_ep.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  unsigned int size;
  unsigned int magic;
  void* data;         // `gpu_bytes` on the GPU, and then `host_bytes` in the host
  size_t gpu_bytes;   // as allocated
  size_t host_bytes;  // as allocated
  int device;         // the GPU's number among those that the process sees
  int numa_node;      // of the host, nearest to the GPU
} ncclEpElasticMemory_t;

#define NCCL_EP_ELASTIC_MEMORY_SIZE sizeof(ncclEpElasticMemory_t)
#define NCCL_EP_ELASTIC_MEMORY_V1_LAST_FIELD numa_node
#define NCCL_EP_ELASTIC_MEMORY_V1_SIZE 40
#define NCCL_EP_ELASTIC_MEMORY_CURRENT_VERSION 1
#define NCCL_EP_ELASTIC_MEMORY_INIT NCCL_EP_STRUCT_INIT(ncclEpElasticMemory_t, NCCL_EP_MAGIC)

// Allocates at least `gpu_bytes` on the GPU `device` and at least `host_bytes` in the host, each rounded up to what the
// driver can map (2 MiB as a rule) and 0 if it is 0; not both are. Fills *memory, which NCCL_EP_ELASTIC_MEMORY_INIT has
// initialised. The GPU, those that can reach it as peers, and for its part the host may read and write the memory. Its
// contents are undefined. The current CUDA context stays what it is. Not collective, not capturable.
// Errors, with *memory untouched and nothing allocated: ncclInvalidArgument: NULL or a malformed struct, no such GPU, no
// bytes or more than there are addresses. ncclInvalidUsage: the GPU cannot map memory, or has no host memory of its own
// near it (NUMA). ncclUnhandledCudaError: the driver refuses, as when memory is used up. ncclSystemError: there is no
// driver.
ncclResult_t ncclEpElasticAlloc(ncclEpElasticMemory_t* memory, size_t gpu_bytes, size_t host_bytes, int device);

// Frees what ncclEpElasticAlloc has allocated, and sets data, gpu_bytes and host_bytes to zero; without data, does nothing.
// Work that uses it must have finished. NULL is fine. Not collective, not capturable.
// Errors: ncclInvalidArgument: a malformed struct. ncclUnhandledCudaError: the driver refuses.
ncclResult_t ncclEpElasticFree(ncclEpElasticMemory_t* memory);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpElasticMemory_t, NCCL_EP_ELASTIC_MEMORY_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpElasticMemory_t, NCCL_EP_ELASTIC_MEMORY_V1_LAST_FIELD,
                                          NCCL_EP_ELASTIC_MEMORY_V1_SIZE);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif

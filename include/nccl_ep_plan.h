// SPDX-License-Identifier: Apache-2.0
// What a group and its handles will take of memory, before there are any (libnccl_ep).
//
// Nothing is allocated on a device, and none is needed. `python -m nccl_ep.plan` is made of it. Conventions are those of
// nccl_ep.h; the message of a failure is in ncclEpGetLastError(NULL).
#ifndef NCCL_EP_PLAN_H_
#define NCCL_EP_PLAN_H_

#include "nccl_ep.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  NCCL_EP_MEMORY_WINDOW = 0,  // symmetric device memory, which the other ranks reach
  NCCL_EP_MEMORY_DEVICE = 1,
  NCCL_EP_MEMORY_PINNED = 2  // of the host
} ncclEpMemoryKind_t;

typedef struct {
  const char* name;  // "rows on their way"
  ncclEpMemoryKind_t kind;
  int of_handle;  // every handle has it; else the group
  size_t bytes;
} ncclEpMemoryPiece_t;

// Called in the thread of the call that it was given to. The piece is valid until it returns.
typedef void (*ncclEpMemoryVisitor_t)(const ncclEpMemoryPiece_t* piece, void* context);

// Visits what each rank takes for a group of `num_ranks` ranks on GPUs of `num_sms` SMs, and for a handle. Arguments are
// those of ncclEpCreateGroup and ncclEpInitHandle, and refused for the same reasons. Of the handle's pieces, those of
// device memory add up to what ncclEpHandleMemSize says. An allocator in `config` is not called.
ncclResult_t ncclEpPlanMemory(const ncclEpGroupConfig_t* config, unsigned int num_ranks, unsigned int num_sms,
                              ncclEpLayout_t layout, const ncclEpHandleConfig_t* handle_config, int num_topk,
                              ncclEpMemoryVisitor_t visit, void* context);

#ifdef __cplusplus
}
#endif

#endif

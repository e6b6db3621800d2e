// SPDX-License-Identifier: Apache-2.0
// Compiling kernels ahead of time, and looking after the folder of compiled kernels (libnccl_ep).
//
// Programs need none of this: ncclEpCreateGroup compiles what is missing. `python -m nccl_ep.jit` is made of
// it, so that images and shared file systems can be prepared on a machine without GPUs. Conventions are those
// of nccl_ep.h; the message of a failure is in ncclEpGetLastError(NULL).
#ifndef NCCL_EP_JIT_H_
#define NCCL_EP_JIT_H_

#include "nccl_ep.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  const char* name;    // "ll_dispatch_rank_major"
  const char* arch;    // "sm_90a"
  const char* file;    // where it is kept; "" when it is not
  size_t bytes;        // of the binary
  int was_cached;      // nothing had to be compiled
  unsigned int index;  // of this kernel among `count`
  unsigned int count;
} ncclEpJitKernel_t;

// Called in the thread of the call that it was given to. The kernel's texts are valid until it returns.
typedef void (*ncclEpJitVisitor_t)(const ncclEpJitKernel_t* kernel, void* context);

// The groups that kernels are for.
typedef enum {
  NCCL_EP_JIT_ONE_TEAM = 0,       // inside one LSA team
  NCCL_EP_JIT_SEVERAL_TEAMS = 1,  // across several, with the network between them
  NCCL_EP_JIT_MASKED = 2,         // inside one LSA team, with ncclEpGroupConfig_t.enable_mask
  NCCL_EP_JIT_EXACT = 3,          // besides ONE_TEAM's or MASKED's, with ncclEpGroupConfig_t.exact_combine
  NCCL_EP_JIT_MASKED_TEAMS = 4,   // as MASKED, across several LSA teams
  NCCL_EP_JIT_EXACT_TEAMS = 5     // as EXACT, across several LSA teams: besides SEVERAL_TEAMS' or MASKED_TEAMS'
} ncclEpJitGroups_t;

// Compiles every kernel of some groups that is not in the cache yet, for each architecture of a comma-separated list such
// as "sm_90a,sm_100a"; NULL: those of the visible GPUs. Needs NVRTC, for groups across several teams also libcu++ and the
// headers of CUDA and NCCL (ncclSystemError says which is missing), and GPUs only for NULL. `visit` may be NULL; it is called for every
// kernel once it is ready. Stops at the first kernel that does not compile (ncclInternalError, the message has the
// compiler's log) or cannot be kept (ncclSystemError).
ncclResult_t ncclEpJitWarmup(const char* archs, ncclEpJitGroups_t groups, ncclEpJitVisitor_t visit, void* context);

// Visits what is in the cache, by name.
ncclResult_t ncclEpJitList(ncclEpJitVisitor_t visit, void* context);

// Called in the thread of the call that it was given to, with one option for NVRTC at a time.
typedef void (*ncclEpJitOption_t)(const char* option, void* context);

// Writes into `folder`, which is made if it is missing, the headers that kernels using the network are compiled
// with: NCCL's, changed where NVRTC would not take them as they are, and stand-ins for the C library's. Then
// calls `visit` (may be NULL) with each option that NVRTC needs to use them. Needs NVRTC, libcu++ and the headers
// of CUDA and NCCL; ncclSystemError says which is missing. With NULL for `folder` it looks for them
// and does nothing more.
ncclResult_t ncclEpJitNetworkHeaders(const char* folder, ncclEpJitOption_t visit, void* context);

// Empties the cache; `removed` (may be NULL) is how many kernels there were. Running programs keep theirs.
ncclResult_t ncclEpJitClear(size_t* removed);

#ifdef __cplusplus
}
#endif

#endif

// SPDX-License-Identifier: Apache-2.0
// What a group and its handles will take of memory, and what their operations will send, before there are any
// (libnccl_ep).
//
// Nothing is allocated on a device, and none is needed. `python -m nccl_ep.plan` and `python -m nccl_ep.model` are made of
// it. Conventions are those of nccl_ep.h; the message of a failure is in ncclEpGetLastError(NULL).
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

// Visits what each rank takes for a group of `num_ranks` ranks, in LSA teams of `team_size`, a divisor of it, on GPUs of
// `num_sms` SMs, and for a handle. Arguments are otherwise those of ncclEpCreateGroup and ncclEpInitHandle, and refused for
// the same reasons. Of the handle's pieces, those of device memory add up to what ncclEpHandleMemSize says. What NCCL takes
// for itself, for windows and connections, is not among them. An allocator in `config` is not called.
ncclResult_t ncclEpPlanMemory(const ncclEpGroupConfig_t* config, unsigned int num_ranks, unsigned int team_size,
                              unsigned int num_sms, ncclEpLayout_t layout, const ncclEpHandleConfig_t* handle_config,
                              int num_topk, ncclEpMemoryVisitor_t visit, void* context);

// How something travels, and who its receivers are: the "peers" of a rank. "Rail peers" are the ranks with the same place
// in other LSA teams.
typedef enum {
  NCCL_EP_PATH_LSA = 0,            // each other rank of the LSA team
  NCCL_EP_PATH_LSA_FORWARDED = 1,  // the same, but a rank sends it for the tokens of its rail peers as for its own
  NCCL_EP_PATH_NETWORK = 2,        // each rank outside the team
  NCCL_EP_PATH_RAIL = 3,           // each rail peer, which receives for its team
  NCCL_EP_PATH_RAIL_FOR_EACH = 4   // the same, but it is sent for each rank of that team that the token goes to
} ncclEpTrafficPath_t;

// What a rank sends in an operation: something for each peer, and something for each token that goes there.
typedef struct {
  const char* name;  // "rows"
  ncclEpOperation_t operation;
  ncclEpTrafficPath_t path;
  int to_home;            // it goes to the rank whose tokens they are; else from there
  size_t bytes_per_peer;  // however many tokens there are
  // [num_topk + 1]: of a token of which so many experts are at the peer; by rail, which goes to so many ranks of the
  // peer's team.
  const size_t* bytes_of_token;
  size_t alignment;           // what goes to a peer takes a multiple of this
  size_t messages_per_peer;   // through the network: puts and lone signals, however many tokens there are
  size_t tokens_per_message;  // besides, each put has so many tokens at most; 0: there are no such puts
} ncclEpTrafficPiece_t;

// Called in the thread of the call that it was given to. The piece is valid until it returns.
typedef void (*ncclEpTrafficVisitor_t)(const ncclEpTrafficPiece_t* piece, void* context);

// Visits what update, dispatch and combine, all of them forward, send from rank to rank where `num_ranks` ranks form LSA
// teams of `team_size`, a divisor of it. Rows have config->max_token_bytes, no row is dropped, and outputs of dispatch are
// in windows if config->zero_copy is NCCL_EP_ZERO_COPY_ON. Arguments are otherwise those of ncclEpPlanMemory.
ncclResult_t ncclEpPlanTraffic(const ncclEpGroupConfig_t* config, unsigned int num_ranks, unsigned int team_size,
                               ncclEpLayout_t layout, int num_topk, ncclEpTrafficVisitor_t visit, void* context);

#ifdef __cplusplus
}
#endif

#endif

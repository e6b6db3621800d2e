// SPDX-License-Identifier: Apache-2.0
// Enumerations of nccl_ep.h that need no other header. All are the size of a C int.
#ifndef NCCL_EP_ENUMS_H_
#define NCCL_EP_ENUMS_H_

typedef enum {
  NCCL_EP_ALGO_LOW_LATENCY = 0,     // LL: few tokens, one kernel a call (decoding)
  NCCL_EP_ALGO_HIGH_THROUGHPUT = 1  // HT: many tokens (prefill, training)
} ncclEpAlgorithm_t;

// What HT does with tokens beyond max_recv_tokens_per_rank.
typedef enum {
  NCCL_EP_OVERFLOW_AUTO = 0,  // TRAP
  NCCL_EP_OVERFLOW_TRAP = 1,  // it is an error
  NCCL_EP_OVERFLOW_DROP = 2   // some are left out, evenly over ranks and experts, and add nothing in combine
} ncclEpOverflowPolicy_t;

// How received rows are arranged.
typedef enum {
  NCCL_EP_LAYOUT_UNSET = 0,
  NCCL_EP_LAYOUT_EXPERT_MAJOR = 1,  // EM: a zone for each local expert; a token has a row in each it is routed to
  NCCL_EP_LAYOUT_RANK_MAJOR = 2,    // RM: a zone for each source rank; a token has one row (LL)
  NCCL_EP_LAYOUT_FLAT = 3           // one list ordered by source rank and token; a token has one row (HT)
} ncclEpLayout_t;

typedef enum { NCCL_EP_FWD_PASS = 0, NCCL_EP_BWD_PASS = 1 } ncclEpPassDir_t;

// Whether kernels write into the caller's windows directly.
typedef enum {
  NCCL_EP_ZERO_COPY_AUTO = 0,  // where a window is given and the operation can
  NCCL_EP_ZERO_COPY_OFF = 1,   // the same as AUTO
  NCCL_EP_ZERO_COPY_ON = 2     // always; a call that cannot is refused
} ncclEpZeroCopyMode_t;

// Numbering of the expert ids that a receiver gets.
typedef enum {
  NCCL_EP_EXPERT_ID_AUTO = 0,   // LOCAL
  NCCL_EP_EXPERT_ID_LOCAL = 1,  // 0 to local experts - 1
  NCCL_EP_EXPERT_ID_GLOBAL = 2  // 0 to num_experts - 1
} ncclEpExpertIdKind_t;

#endif

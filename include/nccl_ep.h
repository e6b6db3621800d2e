// SPDX-License-Identifier: Apache-2.0
// Expert-parallel dispatch and combine on NCCL (libnccl_ep).
//
// An MoE layer routes every token to `K` (top-k) of `E` experts that are spread over the ranks of a
// communicator. Dispatch sends each token's row to the ranks of its experts; combine brings the experts' rows
// back to the token's home and adds them up.
//
//   ncclEpCreateGroup     once per communicator: buffers, kernels
//   ncclEpCreateHandle    once per routing table (or ncclEpUpdateHandle: the same handle, a new table)
//   ncclEpDispatch, ncclEpCombine
//
// Conventions:
//  1. Results. Every function but one returns an ncclResult_t and never aborts, throws or exits.
//     ncclEpGetLastError has the message, with the offending field, its value and what was expected. A
//     failing call leaves its out-parameters NULL or unchanged and starts no work. ncclInvalidArgument: the
//     call is wrong in itself. ncclInvalidUsage: it is wrong here and now, for this group, handle, device or
//     version. ncclRemoteError: a kernel gave up waiting for another rank; every later call on that group
//     answers the same.
//  2. Structs. Initialise each with its NCCL_EP_<NAME>_INIT macro and then set fields; zero means the
//     default. `size` lets libraries and programs of different ages work together: fields the caller's struct
//     lacks are defaults, fields the library does not know are ignored; `version` is not looked at. Structs are
//     read during the call and not kept. Pointers to configs and to ncclEpLayoutInfo_t may be NULL: all defaults.
//  3. Tensors. A descriptor does not own its data or its `sizes`; both belong to the caller, and data must
//     stay valid and untouched until the work of the calls that use it has finished (for `topk_idx` of LL:
//     until the last combine on that routing has). Rows are contiguous. A tensor with a zero extent is empty
//     and may have no data. `data`, and `win_offset`, of tokens and of handle_mem are multiples of 16 bytes, those
//     of scales as their recipe says, and those of other tensors of an element's size. Extents are exactly what is
//     asked for, but those of counters, of handle_mem and M may be larger.
//  4. Streams. Calls that take a stream (of the communicator's GPU, or NULL; CUDA crashes on what is none) enqueue
//     work on it and return; results are there when the stream has passed. Calls on one group are ordered by the
//     caller: one after the other in the same order on all ranks, on one stream or on streams ordered by events. One
//     exception: what ncclEpComplete receives may overlap the group's next operation.
//  5. Collective calls must be made by every rank of the group, with what the table below says in common.
//  6. Capturable calls may be recorded into a CUDA graph and replayed; memory keeps its address, contents may
//     change.
//  7. Threads. One process may hold several ranks, one per thread. Calls on one group must not overlap. In the
//     child of a fork() nothing that its parent made may be used.
//  8. Languages. C from C11 on, or C++ from C++14 on. Groups and handles are used by the pointers that were given
//     out, until they are destroyed: of others nothing can be said, and programs that use them crash.
//
// Letters in shapes: R ranks, E experts, L = E / R local experts, B = max_dispatch_tokens_per_rank, b <= B
// tokens of this rank in this call, K top-k, H elements in a row, M received rows. Shapes are row-major.
//
// What ranks have in common:
//
//   the configuration   algorithm, num_experts, max_dispatch_tokens_per_rank, max_token_bytes, num_topk,
//                       zero_copy, enable_mask, exact_combine; HT: max_recv_tokens_per_rank, overflow_policy.
//                       ncclEpCreateGroup compares them. All else may differ: max_num_sms, timeout_ns, alloc.
//   a handle            layout, K, alignment. Nobody compares them.
//   an operation        H, types, pass, recipe, round_scales, send_only; HT: which outputs are in windows, and at
//                       which offset. Nobody compares them. Where they differ, rows are wrong.
//
// Limits: K at most 64; R at most 1024; L at most 65536, E at most 2^20; max_token_bytes at most 2^30. A block's shared
// memory bounds E besides, on sm_90 and sm_100 to about
//
//   HT                                   16,000; 13,000 on 1024 ranks     (ncclEpCreateGroup: ncclInvalidUsage)
//   HT, DROP                             10,000;  8,000
//   HT, enable_mask, several LSA teams   14,000;  9,000; with DROP 9,000; 6,000
//   LL EM                                16,000 on one rank, 22,000 on two, 30,000 on eight or more (ncclEpDispatch)
//
// and b of LL to about 150,000 with K 8, 25,000 with K 64 (ncclEpDispatch).
#ifndef NCCL_EP_H_
#define NCCL_EP_H_

#include <stddef.h>
#include <stdint.h>

#ifdef NCCL_EP_OWN_TYPES  // for programs that are built without the CUDA and NCCL headers
#include "nccl_ep/own_types.h"
#else
#include <cuda.h>
#include <nccl.h>
#endif

#include "nccl_ep/ep_enums.h"

// ---- Versions ---------------------------------------------------------------------------------------------

#define NCCL_EP_MAJOR 0
#define NCCL_EP_MINOR 2
#define NCCL_EP_PATCH 0
#define NCCL_EP_VERSION_CODE (NCCL_EP_MAJOR * 10000 + NCCL_EP_MINOR * 100 + NCCL_EP_PATCH)
// Version of the structs below.
#define NCCL_EP_API_VERSION 2

#define NCCL_EP_MAGIC 0xC00FFFEEu         // every struct but tensors
#define NCCL_EP_TENSOR_MAGIC 0xCAFECAFEu  // tensor descriptors made by the caller
#define NCCL_EP_AUTO 0

// Two FP4 (E2M1) values in a byte: extents count bytes.
#ifndef ncclFloat4x2
#define ncclFloat4x2 ((ncclDataType_t)12)
#endif

// ---- Tools for structs ------------------------------------------------------------------------------------

// Offset of the first byte after a field.
#define NCCL_EP_FIELD_END(type, field) (offsetof(type, field) + sizeof(((type*)0)->field))
// Whether the struct that `ptr` points to is large enough to have the field.
#define NCCL_EP_HAS_FIELD(ptr, type, field) ((ptr)->size >= NCCL_EP_FIELD_END(type, field))

#ifdef __cplusplus
#define NCCL_EP_STATIC_ASSERT(condition, message) static_assert(condition, message)

template <class T>
constexpr T ncclEpStructInit(unsigned int magic) {
  T result{};
  result.size = static_cast<unsigned int>(sizeof(T));
  result.magic = magic;
  return result;
}
#define NCCL_EP_STRUCT_INIT(type, magic_value) (ncclEpStructInit<type>(magic_value))
#else
#define NCCL_EP_STATIC_ASSERT(condition, message) _Static_assert(condition, message)
#define NCCL_EP_STRUCT_INIT(type, magic_value) ((type){.size = (unsigned int)sizeof(type), .magic = (magic_value)})
#endif

// The struct has this size today, and its header is where the library looks for it.
#define NCCL_EP_STATIC_ASSERT_STRUCT_ABI(type, bytes)                                  \
  NCCL_EP_STATIC_ASSERT(sizeof(type) == (bytes), #type " has changed its size");       \
  NCCL_EP_STATIC_ASSERT(offsetof(type, size) == 0, #type " must begin with its size"); \
  NCCL_EP_STATIC_ASSERT(offsetof(type, magic) == 4, #type " must have its magic at byte 4")
// A version of the struct ends where it always has.
#define NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(type, last_field, bytes) \
  NCCL_EP_STATIC_ASSERT(NCCL_EP_FIELD_END(type, last_field) == (bytes), #type " has moved the end of a version")
#define NCCL_EP_STATIC_ASSERT_OFFSET(type, field, bytes) \
  NCCL_EP_STATIC_ASSERT(offsetof(type, field) == (bytes), #type "." #field " has moved")

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ncclEpGroup* ncclEpGroup_t;
typedef struct ncclEpHandle* ncclEpHandle_t;

// ---- Tensors ----------------------------------------------------------------------------------------------

// Where some elements are: at `data`, or `win_offset` bytes into this rank's part of the window `win_hdl`.
// When both are given, they mean the same memory, all of it in the window: nobody can check that. What
// ncclEpTensorAlloc has made is used by its pointer; a copy of it is refused.
typedef struct {
  unsigned int size;
  unsigned int magic;
  unsigned int ndim;
  ncclDataType_t datatype;
  void* data;
  ncclWindow_t win_hdl;
  uint64_t win_offset;
  size_t* sizes;  // `ndim` extents, outermost first; the caller's array
} ncclEpTensor_t;

#define NCCL_EP_TENSOR_SIZE sizeof(ncclEpTensor_t)
#define NCCL_EP_TENSOR_V1_LAST_FIELD sizes
#define NCCL_EP_TENSOR_V1_SIZE 48
#define NCCL_EP_TENSOR_CURRENT_VERSION 1
// The first designators of a list, in C and in C++20: ncclEpTensor_t t = {NCCL_EP_TENSOR_INIT_INLINE, .ndim = 2};
#define NCCL_EP_TENSOR_INIT_INLINE .size = (unsigned int)sizeof(ncclEpTensor_t), .magic = NCCL_EP_TENSOR_MAGIC
#define NCCL_EP_TENSOR_INIT NCCL_EP_STRUCT_INIT(ncclEpTensor_t, NCCL_EP_TENSOR_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
} ncclEpTensorAllocConfig_t;

#define NCCL_EP_TENSOR_ALLOC_CONFIG_SIZE sizeof(ncclEpTensorAllocConfig_t)
#define NCCL_EP_TENSOR_ALLOC_CONFIG_V1_LAST_FIELD magic
#define NCCL_EP_TENSOR_ALLOC_CONFIG_V1_SIZE 8
#define NCCL_EP_TENSOR_ALLOC_CONFIG_CURRENT_VERSION 1
#define NCCL_EP_TENSOR_ALLOC_CONFIG_INIT NCCL_EP_STRUCT_INIT(ncclEpTensorAllocConfig_t, NCCL_EP_MAGIC)

// ---- Groups -----------------------------------------------------------------------------------------------

// The caller's device memory allocator: both functions or neither. `context` is passed through. It serves
// memory that NCCL need not know; what other ranks reach is allocated by NCCL. What alloc_fn gives is aligned to
// 256 bytes, as cudaMalloc's is. What free_fn returns is not looked at: memory that it does not free is lost.
typedef struct {
  cudaError_t (*alloc_fn)(void** ptr, size_t size, void* context);
  cudaError_t (*free_fn)(void* ptr, void* context);
  void* context;
} ncclEpAllocConfig_t;

typedef struct {
  unsigned int size;
  unsigned int magic;
  unsigned int version;  // NCCL_EP_API_VERSION of the caller; has no effect
  ncclEpAlgorithm_t algorithm;
  unsigned int num_experts;                   // E, a multiple of R; required
  unsigned int max_dispatch_tokens_per_rank;  // B; required
  unsigned int max_recv_tokens_per_rank;      // M of HT, at least B; 0: as many as arrive, read by the host
  unsigned int max_token_bytes;               // bound on a token's row with its scales; required
  unsigned long rdma_buffer_size;             // bytes of the LL buffer; 0: what the other fields need
  unsigned int num_qp_per_rank;               // has no effect
  unsigned int num_channels;                  // has no effect
  unsigned int max_num_sms;                   // SMs that kernels may occupy; 0: chosen
  ncclEpAllocConfig_t alloc;
  unsigned int enable_mask;  // nonzero: a rank that does not answer is masked instead of failing the group
  uint64_t timeout_ns;       // how long a kernel waits for another rank; 0: 100 s
  ncclEpZeroCopyMode_t zero_copy;
  ncclEpOverflowPolicy_t overflow_policy;  // DROP needs max_recv_tokens_per_rank
  unsigned int num_topk;                   // bound on K, at most E and 64; 0: these
  unsigned char padding_v2[4];
  unsigned int exact_combine;  // nonzero: combine adds up each expert's row at home; EM, needs num_topk
  unsigned char padding_v3[4];
} ncclEpGroupConfig_t;

#define NCCL_EP_GROUP_CONFIG_SIZE sizeof(ncclEpGroupConfig_t)
#define NCCL_EP_GROUP_CONFIG_V1_LAST_FIELD timeout_ns
#define NCCL_EP_GROUP_CONFIG_V1_SIZE 96
#define NCCL_EP_GROUP_CONFIG_V2_LAST_FIELD padding_v2
#define NCCL_EP_GROUP_CONFIG_V2_SIZE 112
#define NCCL_EP_GROUP_CONFIG_V3_LAST_FIELD padding_v3
#define NCCL_EP_GROUP_CONFIG_V3_SIZE 120
#define NCCL_EP_GROUP_CONFIG_CURRENT_VERSION 3
#ifdef __cplusplus
}
constexpr ncclEpGroupConfig_t ncclEpGroupConfigInit() {
  ncclEpGroupConfig_t result = ncclEpStructInit<ncclEpGroupConfig_t>(NCCL_EP_MAGIC);
  result.version = NCCL_EP_API_VERSION;
  return result;
}
extern "C" {
#define NCCL_EP_GROUP_CONFIG_INIT (ncclEpGroupConfigInit())
#else
#define NCCL_EP_GROUP_CONFIG_INIT \
  ((ncclEpGroupConfig_t){         \
      .size = (unsigned int)sizeof(ncclEpGroupConfig_t), .magic = NCCL_EP_MAGIC, .version = NCCL_EP_API_VERSION})
#endif

// ---- Handles ----------------------------------------------------------------------------------------------

typedef struct {
  unsigned int size;
  unsigned int magic;
  size_t dispatch_output_per_expert_alignment;  // HT EM: zones are padded to multiples of this power of two
} ncclEpHandleConfig_t;

#define NCCL_EP_HANDLE_CONFIG_SIZE sizeof(ncclEpHandleConfig_t)
#define NCCL_EP_HANDLE_CONFIG_V1_LAST_FIELD dispatch_output_per_expert_alignment
#define NCCL_EP_HANDLE_CONFIG_V1_SIZE 16
#define NCCL_EP_HANDLE_CONFIG_CURRENT_VERSION 1
#define NCCL_EP_HANDLE_CONFIG_INIT NCCL_EP_STRUCT_INIT(ncclEpHandleConfig_t, NCCL_EP_MAGIC)

// Device tensors that say what was received, but for num_tokens, which says what is sent. Which are wanted, and where,
// stands with each function.
typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpTensor_t* expert_counters;     // rows of each local expert
  ncclEpTensor_t* src_rank_counters;   // rows of each source rank
  ncclEpTensor_t* expert_offsets;      // first row of each local expert
  ncclEpTensor_t* recv_total_counter;  // rows in all
  ncclEpExpertIdKind_t recv_topk_idx_kind;
  unsigned char padding_v2[4];
  ncclEpTensor_t* num_tokens;  // in: how many rows of topk_idx there are; NULL: all
} ncclEpLayoutInfo_t;

#define NCCL_EP_LAYOUT_INFO_SIZE sizeof(ncclEpLayoutInfo_t)
#define NCCL_EP_LAYOUT_INFO_V1_LAST_FIELD recv_total_counter
#define NCCL_EP_LAYOUT_INFO_V1_SIZE 40
#define NCCL_EP_LAYOUT_INFO_V2_LAST_FIELD padding_v2
#define NCCL_EP_LAYOUT_INFO_V2_SIZE 48
#define NCCL_EP_LAYOUT_INFO_V3_LAST_FIELD num_tokens
#define NCCL_EP_LAYOUT_INFO_V3_SIZE 56
#define NCCL_EP_LAYOUT_INFO_CURRENT_VERSION 3
#define NCCL_EP_LAYOUT_INFO_INIT NCCL_EP_STRUCT_INIT(ncclEpLayoutInfo_t, NCCL_EP_MAGIC)

// ---- Dispatch and combine ---------------------------------------------------------------------------------

typedef enum {
  NCCL_EP_DISP_QUANT_NONE = 0,        // bf16, fp16 or fp32 rows arrive as they are
  NCCL_EP_DISP_QUANT_FWD = 1,         // the caller has quantized: rows and scales travel as bytes
  NCCL_EP_DISP_QUANT_DS_FP8E3M4 = 2,  // bf16 rows arrive as fp8 E4M3 with an fp32 scale for each 128 elements
} ncclEpDispQuant_t;

typedef enum {
  NCCL_EP_COMB_QUANT_NONE = 0,   // bf16, fp16 or fp32 rows travel as they are
  NCCL_EP_COMB_QUANT_NVFP4 = 1,  // bf16 rows travel as NVFP4, below the caller's global scales
  NCCL_EP_COMB_QUANT_FP8 = 2,    // bf16 rows travel as fp8 E4M3 with an fp32 scale for each 128 elements
} ncclEpCombQuant_t;

typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpTensor_t* tokens;  // required
  ncclEpTensor_t* topk_weights;
  ncclEpTensor_t* scales;
} ncclEpDispatchInputs_t;

#define NCCL_EP_DISPATCH_INPUTS_SIZE sizeof(ncclEpDispatchInputs_t)
#define NCCL_EP_DISPATCH_INPUTS_V1_LAST_FIELD scales
#define NCCL_EP_DISPATCH_INPUTS_V1_SIZE 32
#define NCCL_EP_DISPATCH_INPUTS_CURRENT_VERSION 1
#define NCCL_EP_DISPATCH_INPUTS_INIT NCCL_EP_STRUCT_INIT(ncclEpDispatchInputs_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpTensor_t* tokens;  // required
  ncclEpTensor_t* topk_weights;
  ncclEpTensor_t* scales;
  ncclEpTensor_t* topk_idx;
} ncclEpDispatchOutputs_t;

#define NCCL_EP_DISPATCH_OUTPUTS_SIZE sizeof(ncclEpDispatchOutputs_t)
#define NCCL_EP_DISPATCH_OUTPUTS_V1_LAST_FIELD topk_idx
#define NCCL_EP_DISPATCH_OUTPUTS_V1_SIZE 40
#define NCCL_EP_DISPATCH_OUTPUTS_CURRENT_VERSION 1
#define NCCL_EP_DISPATCH_OUTPUTS_INIT NCCL_EP_STRUCT_INIT(ncclEpDispatchOutputs_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
  unsigned int send_only;     // LL, nonzero: only send; ncclEpComplete receives
  unsigned int round_scales;  // DS_FP8E3M4, nonzero: scales are powers of two
  ncclEpPassDir_t pass_direction;
  ncclEpDispQuant_t quant_recipe;
} ncclEpDispatchConfig_t;

#define NCCL_EP_DISPATCH_CONFIG_SIZE sizeof(ncclEpDispatchConfig_t)
#define NCCL_EP_DISPATCH_CONFIG_V1_LAST_FIELD pass_direction
#define NCCL_EP_DISPATCH_CONFIG_V1_SIZE 20
#define NCCL_EP_DISPATCH_CONFIG_V2_LAST_FIELD quant_recipe
#define NCCL_EP_DISPATCH_CONFIG_V2_SIZE 24
#define NCCL_EP_DISPATCH_CONFIG_CURRENT_VERSION 2
#define NCCL_EP_DISPATCH_CONFIG_INIT NCCL_EP_STRUCT_INIT(ncclEpDispatchConfig_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpTensor_t* tokens;  // required
  ncclEpTensor_t* topk_weights;
  ncclEpTensor_t* scales;
} ncclEpCombineInputs_t;

#define NCCL_EP_COMBINE_INPUTS_SIZE sizeof(ncclEpCombineInputs_t)
#define NCCL_EP_COMBINE_INPUTS_V1_LAST_FIELD topk_weights
#define NCCL_EP_COMBINE_INPUTS_V1_SIZE 24
#define NCCL_EP_COMBINE_INPUTS_V2_LAST_FIELD scales
#define NCCL_EP_COMBINE_INPUTS_V2_SIZE 32
#define NCCL_EP_COMBINE_INPUTS_CURRENT_VERSION 2
#define NCCL_EP_COMBINE_INPUTS_INIT NCCL_EP_STRUCT_INIT(ncclEpCombineInputs_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpTensor_t* tokens;        // required
  ncclEpTensor_t* topk_weights;  // LL EM reads it; HT BWD writes it
} ncclEpCombineOutputs_t;

#define NCCL_EP_COMBINE_OUTPUTS_SIZE sizeof(ncclEpCombineOutputs_t)
#define NCCL_EP_COMBINE_OUTPUTS_V1_LAST_FIELD topk_weights
#define NCCL_EP_COMBINE_OUTPUTS_V1_SIZE 24
#define NCCL_EP_COMBINE_OUTPUTS_CURRENT_VERSION 1
#define NCCL_EP_COMBINE_OUTPUTS_INIT NCCL_EP_STRUCT_INIT(ncclEpCombineOutputs_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
  unsigned int send_only;  // LL, nonzero: only send; ncclEpComplete receives
  ncclEpPassDir_t pass_direction;
  ncclEpCombQuant_t quant_recipe;
} ncclEpCombineConfig_t;

#define NCCL_EP_COMBINE_CONFIG_SIZE sizeof(ncclEpCombineConfig_t)
#define NCCL_EP_COMBINE_CONFIG_V1_LAST_FIELD pass_direction
#define NCCL_EP_COMBINE_CONFIG_V1_SIZE 16
#define NCCL_EP_COMBINE_CONFIG_V2_LAST_FIELD quant_recipe
#define NCCL_EP_COMBINE_CONFIG_V2_SIZE 20
#define NCCL_EP_COMBINE_CONFIG_CURRENT_VERSION 2
#define NCCL_EP_COMBINE_CONFIG_INIT NCCL_EP_STRUCT_INIT(ncclEpCombineConfig_t, NCCL_EP_MAGIC)

typedef struct {
  unsigned int size;
  unsigned int magic;
} ncclEpCompleteConfig_t;

#define NCCL_EP_COMPLETE_CONFIG_SIZE sizeof(ncclEpCompleteConfig_t)
#define NCCL_EP_COMPLETE_CONFIG_V1_LAST_FIELD magic
#define NCCL_EP_COMPLETE_CONFIG_V1_SIZE 8
#define NCCL_EP_COMPLETE_CONFIG_CURRENT_VERSION 1
#define NCCL_EP_COMPLETE_CONFIG_INIT NCCL_EP_STRUCT_INIT(ncclEpCompleteConfig_t, NCCL_EP_MAGIC)

// ---- What a call would do with windows --------------------------------------------------------------------

typedef enum {
  NCCL_EP_OPERATION_UPDATE = 0,
  NCCL_EP_OPERATION_DISPATCH = 1,
  NCCL_EP_OPERATION_COMBINE = 2,
} ncclEpOperation_t;

// How the rows of a tensor get there, or away from there.
typedef enum {
  NCCL_EP_ROW_PATH_NONE = 0,      // the call has no such tensor
  NCCL_EP_ROW_PATH_REFUSED = 1,   // the call would be refused
  NCCL_EP_ROW_PATH_IN_PLACE = 2,  // this rank alone reads or writes it, where it is: a window changes nothing
  NCCL_EP_ROW_PATH_STAGED = 3,    // they arrive in the library's window, and this rank copies them from there
  NCCL_EP_ROW_PATH_DIRECT = 4,    // other ranks write them where they belong
} ncclEpRowPath_t;

// A call that might be made. topk_weights and topk_idx are not asked about: windows change nothing for them.
typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclEpOperation_t operation;  // DISPATCH or COMBINE; required
  ncclEpPassDir_t pass_direction;
  unsigned int quant_recipe;       // an ncclEpDispQuant_t or an ncclEpCombQuant_t, as config.quant_recipe
  ncclDataType_t datatype;         // of inputs.tokens; required: 0 is ncclInt8
  size_t hidden;                   // H of inputs.tokens; required
  ncclDataType_t scales_datatype;  // of inputs.scales
  unsigned int num_scales;         // of a row of inputs.scales; 0: inputs.scales is NULL
  unsigned int tokens_in_window;   // nonzero: outputs.tokens of dispatch, inputs.tokens of combine has a window
  unsigned int scales_in_window;   // nonzero: outputs.scales of dispatch, inputs.scales of combine has a window
} ncclEpCapabilityQuery_t;

#define NCCL_EP_CAPABILITY_QUERY_SIZE sizeof(ncclEpCapabilityQuery_t)
#define NCCL_EP_CAPABILITY_QUERY_V1_LAST_FIELD scales_in_window
#define NCCL_EP_CAPABILITY_QUERY_V1_SIZE 48
#define NCCL_EP_CAPABILITY_QUERY_CURRENT_VERSION 1
#define NCCL_EP_CAPABILITY_QUERY_INIT NCCL_EP_STRUCT_INIT(ncclEpCapabilityQuery_t, NCCL_EP_MAGIC)

// One tensor's part of the answer.
typedef struct {
  ncclEpRowPath_t path;
  unsigned char padding_v1[4];
  const char* reason;  // a sentence about the path, "" with NONE; the library's
} ncclEpTensorPath_t;

typedef struct {
  unsigned int size;
  unsigned int magic;
  ncclResult_t result;  // what the call would return, were everything else right
  unsigned char padding_v1[4];
  ncclEpTensorPath_t inputs_tokens;
  ncclEpTensorPath_t inputs_scales;
  ncclEpTensorPath_t outputs_tokens;
  ncclEpTensorPath_t outputs_scales;
} ncclEpCapabilities_t;

#define NCCL_EP_CAPABILITIES_SIZE sizeof(ncclEpCapabilities_t)
#define NCCL_EP_CAPABILITIES_V1_LAST_FIELD outputs_scales
#define NCCL_EP_CAPABILITIES_V1_SIZE 80
#define NCCL_EP_CAPABILITIES_CURRENT_VERSION 1
#define NCCL_EP_CAPABILITIES_INIT NCCL_EP_STRUCT_INIT(ncclEpCapabilities_t, NCCL_EP_MAGIC)

// ---- Version and errors -----------------------------------------------------------------------------------

// The library's NCCL_EP_VERSION_CODE. NULL: ncclInvalidArgument.
ncclResult_t ncclEpGetVersion(int* version);

// The message of the calling thread's last failing call. With a group: of that call only if it was about this
// group or a handle of it. "" if there is none. The pointer is valid until the calling thread's next call.
// The group is only compared, so it may have been destroyed.
const char* ncclEpGetLastError(ncclEpGroup_t ep_group);

// Writes what kernels of this group have reported to *error_out: 0, or the ncclResult_t that the next calls
// will return. With enable_mask, also ncclRemoteError: a rank has been lost since ncclEpErrorClear, and calls go
// on to succeed. If it is not 0, ncclEpGetLastError(ep_group) says who has waited how long for what from whom.
// Does not wait for the device; not collective; capturable. A NULL argument: ncclInvalidArgument.
ncclResult_t ncclEpGetAsyncError(ncclEpGroup_t ep_group, int* error_out);

// ---- The simple way: a group, a handle, dispatch and combine ----------------------------------------------

// Creates a group on `comm`, which must outlive it. Collective; allocates; waits for the device; not
// capturable. Compiles kernels that are not in the cache yet, before it waits for other ranks.
// Errors: ncclInvalidArgument: NULL arguments; a config without size or magic; algorithm, num_experts,
// max_token_bytes, max_dispatch_tokens_per_rank or num_topk missing or out of bounds, or not the same on all
// ranks. ncclInvalidUsage: one of alloc_fn and free_fn without the other; more SMs than the device has;
// rdma_buffer_size too small; what NCCL, the device or this version of the library cannot do; another rank, which the
// message names, has failed. ncclSystemError, ncclUnhandledCudaError: CUDA or NCCL failed, or memory is used up.
// It fails on all ranks or on none, but for what this rank alone cannot read: NULL arguments, a config without size or
// magic, an enum out of bounds, a communicator that cannot be opened. Then the others wait.
ncclResult_t ncclEpCreateGroup(ncclEpGroup_t* ep_group, ncclComm_t comm, const ncclEpGroupConfig_t* config);

// Destroys a group. Its work must have finished and its handles must be gone (else ncclInvalidUsage, and the
// group lives on). Collective; waits for the device; not capturable. NULL is fine.
ncclResult_t ncclEpGroupDestroy(ncclEpGroup_t ep_group);

// Creates a handle for the routing `topk_idx`: ncclEpInitHandle with K = its second extent and memory of the
// library's, then ncclEpUpdateHandle. Parameters, stream order and errors are theirs. Allocates; not
// capturable.
ncclResult_t ncclEpCreateHandle(ncclEpHandle_t* handle, ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info,
                                const ncclEpHandleConfig_t* config, cudaStream_t stream);

// Gives the handle a new routing: `topk_idx` [b, K] int32 or int64, expert ids in [0, E), -1 (or less) for no expert.
//   LL  keeps a reference to the data: it must stay valid until the combine of this routing has finished, and
//       dispatch and combine read it on their streams. layout_info may be NULL and has no field but num_tokens.
//       Not collective, enqueues nothing.
//   HT  reads it on `stream` and keeps a copy. Collective. Fills what layout_info asks for: expert_counters
//       [L or more] int32; expert_offsets [L or more] (EM); recv_total_counter [1 or more] int32 or int64.
//       EM: all of one type, counting padded rows. What is dropped counts in recv_total_counter alone.
// layout_info.num_tokens [1] int32, in device memory: how many tokens there are, 0 to b, the first rows of every
// tensor that has b rows. b is then the most that there may be, and the rows behind the tokens have no effect and are
// not written. It is read, and must stay valid and unchanged, as the data of topk_idx (LL: by dispatch and combine; HT: by
// this call). So a graph that is captured once for b tokens can be replayed for any number of them.
// Capturable. Allocates nothing.
// Errors: ncclInvalidArgument: NULL or malformed arguments, a shape or type that is not listed, b > B,
// another K than the handle's. ncclInvalidUsage: LL: a send_only operation of this handle awaits ncclEpComplete.
// From the next call on: ncclInvalidArgument: *num_tokens is not in [0, b]. HT: ncclInvalidUsage: a rank would
// receive more than max_recv_tokens_per_rank rows, unless overflow_policy is DROP.
ncclResult_t ncclEpUpdateHandle(ncclEpHandle_t handle, const ncclEpTensor_t* topk_idx,
                                const ncclEpLayoutInfo_t* layout_info, cudaStream_t stream);

// Destroys a handle; work that uses it must have finished, since its memory is given back at once. (Without an
// allocator of the caller's, CUDA waits for the device, and so for the peers that kernels still wait for.) A
// send_only operation that awaits ncclEpComplete is given up: nobody receives it, and across LSA teams later operations of
// the group answer ncclInvalidUsage, since its messages may still be under way. Not collective, not capturable. NULL is
// fine.
ncclResult_t ncclEpHandleDestroy(ncclEpHandle_t handle);

// Sends this rank's b rows to the ranks of their experts and receives theirs.
//
//           inputs                                       outputs
//           tokens  topk_weights  scales      tokens       topk_weights  topk_idx         scales
//   LL EM   [b,H]   -             per recipe  [L,R*B,H]    -             -                per recipe, 3D
//   LL RM   [b,H]   [b,K] fp32    per recipe  [R,B,H]      [R,B,K] fp32  [R,B,K] int32    per recipe, 3D
//   HT FLAT [b,H]   [b,K] fp32    per recipe  [M,H]        [M,K] fp32    [M,K] int64      per recipe, 2D
//   HT EM   [b,H]   [b,K] fp32    per recipe  [M,H]        [M] fp32      -                per recipe, 2D
//   (HT BWD: no weights and no topk_idx, on either side.)
//
// A dash: must be NULL. H is any number whose row is a multiple of 16 bytes. Recipes:
//   NONE          tokens are bf16, fp16 or fp32, the same on both sides; no scales.
//   FWD           the caller has quantized. Tokens are fp32, fp16, bf16, fp8 E4M3, fp8 E5M2 or float4x2 (H
//                 counts bytes), the same on both sides. inputs.scales [b,n], any n, of fp32, fp16, bf16, fp8 or
//                 uint8, aligned as one of them, in HT to 16 bytes; outputs.scales the same, with n as their last
//                 extent. They are moved as they are.
//   DS_FP8E3M4    inputs.tokens are bf16, H a multiple of 128; inputs.scales is NULL. outputs.tokens are fp8
//                 E4M3, outputs.scales fp32, their last extent H / 128: element = number x scale of its 128
//                 elements. A scale is their largest magnitude, 1e-4 at least, / 448; with round_scales the next
//                 power of two. It is infinite, and so all products NaN, if one of them is not finite.
//                 NCCL EP 0.2 has it in LL only.
// Rows arrive ordered by (source rank, token), on every run alike:
//   LL EM   rows 0 to counter[e] - 1 of expert e's zone. layout_info.expert_counters [L or more] int32 is required.
//   LL RM   rows 0 to counter[r] - 1 of rank r's zone, one for each token routed here; src_rank_counters
//           [R or more] int32 is optional. topk_idx has the token's ids, -1 for experts of other ranks and in all
//           unused rows.
//   HT FLAT one row for each token routed here; topk_idx as in LL RM.
//   HT EM   the zones that ncclEpUpdateHandle counted, padding zeroed.
// Scales arrive at the same places as their rows. Rows beyond the counters are left untouched.
// layout_info.recv_topk_idx_kind numbers topk_idx. Fields of layout_info that are not named here must be NULL in LL; HT does
// not look at its counters, which ncclEpUpdateHandle has filled, so both calls may be given the same one. LL works alike for
// outputs in windows and elsewhere. Rows of HT whose output is in a window are written there directly by the senders (EM: each
// token's first one), unless zero_copy is OFF. Then all ranks give a window, and use the same offset. In HT tokens and scales
// are both in windows or neither. outputs.scales of HT have as many rows as outputs.tokens, with zeros in EM's padding.
// ncclEpQueryCapabilities says which way rows would take.
//
// M is max_recv_tokens_per_rank or more. If that is 0, M is at least what recv_total_counter says; the call
// then waits for the update to have run, if it has not.
//
// Collective. Stream-ordered; inputs may be reused and outputs read once `stream` has passed (send_only, which
// HT ignores: the stream of ncclEpComplete). Allocates nothing. Capturable, but for HT with
// max_recv_tokens_per_rank 0.
// Errors: ncclInvalidArgument: NULL or malformed arguments; tensors missing, forbidden or of another shape or
// type than above; rows, with their scales as they arrive, longer than max_token_bytes; zero_copy ON without a
// window (LL FWD: of tokens or scales), or LL with EM or DS_FP8E3M4; round_scales with another recipe than
// DS_FP8E3M4. ncclInvalidUsage: BWD with LL, no routing yet, a send_only operation of this handle, or the last
// but one of the group's, awaiting ncclEpComplete, HT with max_recv_tokens_per_rank 0 while the stream captures, HT
// without an update since ncclEpMaskClean.
ncclResult_t ncclEpDispatch(ncclEpHandle_t handle, const ncclEpDispatchInputs_t* inputs,
                            const ncclEpDispatchOutputs_t* outputs, const ncclEpLayoutInfo_t* layout_info,
                            const ncclEpDispatchConfig_t* config, cudaStream_t stream);

// Brings the experts' rows home and adds them up, in fp32 and in a fixed order.
//
//           inputs                                   outputs
//           tokens      topk_weights  scales         tokens  topk_weights
//   LL EM   [L,R*B,H]   ignored       per recipe     [b,H]   [b,K] fp32: an input, the weights
//   LL RM   [R,B,H]     ignored       per recipe     [b,H]   ignored
//   HT FWD  [M,H]       -             per recipe     [b,H]   ignored
//   HT BWD  [M,H]       [M,K] FLAT,   -              [b,H]   [b,K] fp32
//                       [M] EM, fp32
//
// Rows stand where dispatch put them; M may be as low as what recv_total_counter says, outside of graphs,
// and need not exceed max_recv_tokens_per_rank.
// Recipe NONE: bf16, fp16 or fp32, the same on both sides; no scales. FP8 (LL, and HT FWD; not in NCCL EP 0.2): bf16 on both
// sides, H a multiple of 128; no scales here, since they are made on the way, as in dispatch with DS_FP8E3M4, of what
// each rank sends, and in HT once more of what another LSA team sends home.
// NVFP4 (LL): bf16 on both sides, H a multiple of 32. inputs.scales, fp32 [L,R*B,1] or [R,B,1], are the
// global scales of the rows: 2688 / a row's largest magnitude, or 0 for zeros. Rows travel as fp4 E2M1 with
// an fp8 E4M3 scale for each 16 elements: element = number x scale / global scale. What is larger than
// 2688 / global scale becomes that. In EM a rank's sum travels; its global scale is 1 / the sum of
// |weight| / global scale over its rows. An element comes back with an error of at most 1/5 of it, 1/22 of
// the largest magnitude of its 16, or 1/450,000 of 2688 / global scale, whichever is most.
//   LL EM   out[t] = sum over k of weights[t, k] * the row of token t at its k-th expert
//   others  out[t] = sum over ranks (EM: slots) of token t's rows, which the caller has weighted and, if
//           there is one row a token, added over its rank's experts
//   HT BWD  also brings home the gradients of the weights, to each place its expert's, zero without one
// With exact_combine, which NCCL EP 0.2 does not have, each expert's row travels home as it is. There the rows, in LL
// the products weights[t, k] * row, are added one after the other in the order of the top-k, in fp32 without fused
// operations, and the sum is rounded to the rows' type: the same bits wherever the experts are. An expert that is
// repeated in the top-k adds its row each time in LL, once in HT.
// A token without experts, or of which nothing was kept, gets a row of zeros. The routing is that of the dispatch.
//
// Collective. Stream-ordered, as ncclEpDispatch. Allocates nothing. Capturable. Errors: as ncclEpDispatch;
// ncclInvalidUsage: FP8 with HT BWD; NVFP4 with HT; either with exact_combine; LL without a dispatch of this routing,
// or since ncclEpMaskClean.
ncclResult_t ncclEpCombine(ncclEpHandle_t handle, const ncclEpCombineInputs_t* inputs,
                           const ncclEpCombineOutputs_t* outputs, const ncclEpCombineConfig_t* config,
                           cudaStream_t stream);

// ---- More control -----------------------------------------------------------------------------------------

// Receives what a send_only dispatch or combine of this handle has left pending; does nothing if there is
// none. The tensors given to that call must still be valid. `stream` may be another one if it is ordered
// after that call's. The next operation of the group, of another handle, may have been called before and run
// at the same time; the one after it may not: it runs behind this call. Collective when something is pending.
// Stream-ordered. Allocates nothing. Capturable: it receives what the last send_only call of the handle to
// run has sent. Errors: ncclInvalidArgument: NULL handle, malformed config.
ncclResult_t ncclEpComplete(ncclEpHandle_t handle, const ncclEpCompleteConfig_t* config, cudaStream_t stream);

// Writes to *size_out how many bytes of device memory a handle of this layout and K needs. Not collective;
// capturable.
// Errors: as ncclEpInitHandle; *size_out is then untouched.
ncclResult_t ncclEpHandleMemSize(ncclEpGroup_t ep_group, ncclEpLayout_t layout, const ncclEpHandleConfig_t* config,
                                 size_t* size_out, int num_topk);

// Creates a handle without a routing. `handle_mem`: a uint8 tensor [n] in device memory, n >=
// ncclEpHandleMemSize, that stays the caller's and must outlive the handle; or NULL to allocate it as
// config.alloc of the group says. Not collective, not capturable.
// Errors: ncclInvalidArgument: NULL or malformed arguments; a layout the algorithm does not have (LL: EM, RM;
// HT: EM, FLAT); num_topk below 1 or above the group's bound (HT: ncclInvalidUsage); an alignment that is no
// power of two; handle_mem too small. ncclInvalidUsage: an alignment with LL or FLAT; HT EM in a group that
// has neither max_recv_tokens_per_rank nor num_topk; RM or FLAT in a group with exact_combine.
ncclResult_t ncclEpInitHandle(ncclEpHandle_t* handle, ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                              const ncclEpHandleConfig_t* config, int num_topk, const ncclEpTensor_t* handle_mem);

// Makes a descriptor with its own copy of `sizes`, in host memory; data and window are to be set by the
// caller. `config` may be NULL. Errors: ncclInvalidArgument: NULL tensor or sizes, ndim 0, malformed config.
ncclResult_t ncclEpTensorAlloc(ncclEpTensor_t** tensor, unsigned int ndim, ncclDataType_t datatype, const size_t* sizes,
                               const ncclEpTensorAllocConfig_t* config);

// Frees a descriptor of ncclEpTensorAlloc. NULL is fine. Errors: ncclInvalidArgument: any other descriptor,
// or one whose `sizes` pointer was changed.
ncclResult_t ncclEpTensorDestroy(ncclEpTensor_t* tensor);

// Says what a dispatch or combine of a handle with this layout would do with the rows of its tensors, and why:
// whether windows spare a copy, and whether the call would be refused for its layout, pass, recipe, types, row
// size or windows. The call decides by the same code. Fills *capabilities, as far as its `size` reaches;
// `reason`s are valid until the calling thread's next ncclEpQueryCapabilities. Shapes, addresses, the routing and
// the state of the group are not looked at. Not collective, enqueues nothing, capturable.
// Errors: ncclInvalidArgument: NULL or malformed arguments, an enumeration's value that does not exist. A call that
// would be refused is no error of this function.
ncclResult_t ncclEpQueryCapabilities(ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                     const ncclEpCapabilityQuery_t* query, ncclEpCapabilities_t* capabilities);

// ---- Ranks that do not answer (enable_mask) ---------------------------------------------------------------

// A rank that a kernel has waited for in vain is masked, on the rank that waited: nothing is sent to it any more,
// and what it should have sent counts as nothing. Each rank has a mask of its own. In HT all ranks of an LSA team that
// go on count the tokens of the same ranks: one that any of them has masked when an update begins may be left out by
// all. Across LSA teams, a rank of HT deals with those of its team and those with its place in others: who has lost one
// of these has lost its team. After ncclEpMaskClean, handles of HT are updated, and those of LL dispatched, before they
// are used again; other calls are refused, but for those in graphs, which nobody can check.
// All of these answer ncclInvalidArgument to NULL, and ncclInvalidUsage to a group without enable_mask.

// Copies the mask to `mask_status`, R ints in device memory: 1 active, 0 masked. Stream-ordered; capturable.
ncclResult_t ncclEpMaskQuery(ncclEpGroup_t ep_group, int* mask_status, cudaStream_t stream);

// Replaces the mask by `mask`, R ints in host memory: 1 active, 0 masked. Stream-ordered; capturable, with the values of
// the capture in each replay. A rank that was masked and may have called operations meanwhile takes part again by
// ncclEpMaskClean alone. The calling rank's own entry has no effect. ncclInvalidArgument: another number.
ncclResult_t ncclEpMaskUpdate(ncclEpGroup_t ep_group, const int* mask, cudaStream_t stream);

// Makes all ranks active again that call it within timeout_ns of each other, masked ones too; earlier calls of
// each must have run. Waits for the stream; not capturable. ncclRemoteError: the ranks that its message names
// have not called it and are masked; the others go on. ncclInvalidUsage: a send_only operation awaits
// ncclEpComplete, or the stream captures.
ncclResult_t ncclEpMaskClean(ncclEpGroup_t ep_group, cudaStream_t stream);

// Forgets that ranks were lost, which ncclEpGetAsyncError reports as ncclRemoteError. Waits for the device to
// have noted it, not for its work; not capturable.
ncclResult_t ncclEpErrorClear(ncclEpGroup_t ep_group);

// ---- The binary interface, checked wherever this header is compiled ---------------------------------------

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpTensor_t, NCCL_EP_TENSOR_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpTensor_t, NCCL_EP_TENSOR_V1_LAST_FIELD, NCCL_EP_TENSOR_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, ndim, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, datatype, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, data, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, win_hdl, 24);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, win_offset, 32);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensor_t, sizes, 40);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpTensorAllocConfig_t, NCCL_EP_TENSOR_ALLOC_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpTensorAllocConfig_t, NCCL_EP_TENSOR_ALLOC_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_TENSOR_ALLOC_CONFIG_V1_SIZE);

NCCL_EP_STATIC_ASSERT(sizeof(ncclEpAllocConfig_t) == 24, "ncclEpAllocConfig_t has changed its size");
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpAllocConfig_t, alloc_fn, 0);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpAllocConfig_t, free_fn, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpAllocConfig_t, context, 16);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpGroupConfig_t, NCCL_EP_GROUP_CONFIG_V3_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpGroupConfig_t, NCCL_EP_GROUP_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_GROUP_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpGroupConfig_t, NCCL_EP_GROUP_CONFIG_V2_LAST_FIELD,
                                          NCCL_EP_GROUP_CONFIG_V2_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpGroupConfig_t, NCCL_EP_GROUP_CONFIG_V3_LAST_FIELD,
                                          NCCL_EP_GROUP_CONFIG_V3_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, version, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, algorithm, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, num_experts, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, max_dispatch_tokens_per_rank, 20);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, max_recv_tokens_per_rank, 24);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, max_token_bytes, 28);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, rdma_buffer_size, 32);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, num_qp_per_rank, 40);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, num_channels, 44);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, max_num_sms, 48);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, alloc, 56);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, enable_mask, 80);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, timeout_ns, 88);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, zero_copy, 96);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, overflow_policy, 100);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, num_topk, 104);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, padding_v2, 108);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, exact_combine, 112);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpGroupConfig_t, padding_v3, 116);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpHandleConfig_t, NCCL_EP_HANDLE_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpHandleConfig_t, NCCL_EP_HANDLE_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_HANDLE_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpHandleConfig_t, dispatch_output_per_expert_alignment, 8);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO_V3_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO_V1_LAST_FIELD,
                                          NCCL_EP_LAYOUT_INFO_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO_V2_LAST_FIELD,
                                          NCCL_EP_LAYOUT_INFO_V2_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO_V3_LAST_FIELD,
                                          NCCL_EP_LAYOUT_INFO_V3_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, expert_counters, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, src_rank_counters, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, expert_offsets, 24);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, recv_total_counter, 32);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, recv_topk_idx_kind, 40);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, padding_v2, 44);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpLayoutInfo_t, num_tokens, 48);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpDispatchInputs_t, NCCL_EP_DISPATCH_INPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpDispatchInputs_t, NCCL_EP_DISPATCH_INPUTS_V1_LAST_FIELD,
                                          NCCL_EP_DISPATCH_INPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchInputs_t, tokens, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchInputs_t, topk_weights, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchInputs_t, scales, 24);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpDispatchOutputs_t, NCCL_EP_DISPATCH_OUTPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpDispatchOutputs_t, NCCL_EP_DISPATCH_OUTPUTS_V1_LAST_FIELD,
                                          NCCL_EP_DISPATCH_OUTPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchOutputs_t, tokens, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchOutputs_t, topk_weights, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchOutputs_t, scales, 24);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchOutputs_t, topk_idx, 32);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpDispatchConfig_t, NCCL_EP_DISPATCH_CONFIG_V2_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpDispatchConfig_t, NCCL_EP_DISPATCH_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_DISPATCH_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpDispatchConfig_t, NCCL_EP_DISPATCH_CONFIG_V2_LAST_FIELD,
                                          NCCL_EP_DISPATCH_CONFIG_V2_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchConfig_t, send_only, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchConfig_t, round_scales, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchConfig_t, pass_direction, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpDispatchConfig_t, quant_recipe, 20);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCombineInputs_t, NCCL_EP_COMBINE_INPUTS_V2_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCombineInputs_t, NCCL_EP_COMBINE_INPUTS_V1_LAST_FIELD,
                                          NCCL_EP_COMBINE_INPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCombineInputs_t, NCCL_EP_COMBINE_INPUTS_V2_LAST_FIELD,
                                          NCCL_EP_COMBINE_INPUTS_V2_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineInputs_t, tokens, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineInputs_t, topk_weights, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineInputs_t, scales, 24);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCombineOutputs_t, NCCL_EP_COMBINE_OUTPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCombineOutputs_t, NCCL_EP_COMBINE_OUTPUTS_V1_LAST_FIELD,
                                          NCCL_EP_COMBINE_OUTPUTS_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineOutputs_t, tokens, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineOutputs_t, topk_weights, 16);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCombineConfig_t, NCCL_EP_COMBINE_CONFIG_V2_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCombineConfig_t, NCCL_EP_COMBINE_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_COMBINE_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCombineConfig_t, NCCL_EP_COMBINE_CONFIG_V2_LAST_FIELD,
                                          NCCL_EP_COMBINE_CONFIG_V2_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineConfig_t, send_only, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineConfig_t, pass_direction, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCombineConfig_t, quant_recipe, 16);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCompleteConfig_t, NCCL_EP_COMPLETE_CONFIG_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCompleteConfig_t, NCCL_EP_COMPLETE_CONFIG_V1_LAST_FIELD,
                                          NCCL_EP_COMPLETE_CONFIG_V1_SIZE);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCapabilityQuery_t, NCCL_EP_CAPABILITY_QUERY_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCapabilityQuery_t, NCCL_EP_CAPABILITY_QUERY_V1_LAST_FIELD,
                                          NCCL_EP_CAPABILITY_QUERY_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, operation, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, pass_direction, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, quant_recipe, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, datatype, 20);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, hidden, 24);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, scales_datatype, 32);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, num_scales, 36);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, tokens_in_window, 40);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilityQuery_t, scales_in_window, 44);

NCCL_EP_STATIC_ASSERT(sizeof(ncclEpTensorPath_t) == 16, "ncclEpTensorPath_t has changed its size");
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensorPath_t, path, 0);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensorPath_t, padding_v1, 4);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpTensorPath_t, reason, 8);

NCCL_EP_STATIC_ASSERT_STRUCT_ABI(ncclEpCapabilities_t, NCCL_EP_CAPABILITIES_V1_SIZE);
NCCL_EP_STATIC_ASSERT_STRUCT_ABI_BOUNDARY(ncclEpCapabilities_t, NCCL_EP_CAPABILITIES_V1_LAST_FIELD,
                                          NCCL_EP_CAPABILITIES_V1_SIZE);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, result, 8);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, padding_v1, 12);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, inputs_tokens, 16);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, inputs_scales, 32);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, outputs_tokens, 48);
NCCL_EP_STATIC_ASSERT_OFFSET(ncclEpCapabilities_t, outputs_scales, 64);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif

// SPDX-License-Identifier: Apache-2.0
// Checks of tensors against their contract. A failing check throws an Error that names the field, the value found and
// what was expected; a passing one costs a few comparisons and builds no text.
#pragma once

#include <initializer_list>
#include <string>

#include "core/memory.hpp"
#include "core/requests.hpp"
#include "nccl_ep.h"
#include "shared/group_state.hpp"

namespace nccl_ep::core {

// One expected extent and how a message explains it.
struct Extent {
  enum Rule { exactly, at_least };
  size_t value;
  const char* meaning;
  Rule rule = exactly;
};

inline std::string number(uint64_t value) { return std::to_string(value); }

// `tensor` must be given, of one of `dtypes`, and of exactly these extents.
void check_tensor(const char* field, const ncclEpTensor_t* tensor, std::initializer_list<ncclDataType_t> dtypes,
                  std::initializer_list<Extent> extents);
void check_dtype(const char* field, const ncclEpTensor_t& tensor, std::initializer_list<ncclDataType_t> dtypes);
void check_absent(const char* field, const ncclEpTensor_t* tensor, const char* why);

// What a routing table must be.
void check_topk_idx(const ncclEpTensor_t* topk_idx, uint32_t num_topk, uint32_t max_tokens);
// Where on the device an update's layout_info says how many tokens there are; nullptr: as many as topk_idx has rows.
const int32_t* num_tokens_at(const ncclEpLayoutInfo_t& info, runtime::Communicator& comm);
void check_power_of_two(const char* field, size_t value);
// What NCCL_EP_ZERO_COPY_ON promises.
void check_window(const char* field, const ncclEpTensor_t& tensor, ncclEpZeroCopyMode_t mode);

bool is_empty(const ncclEpTensor_t& tensor);
size_t element_bytes(ncclDataType_t dtype);  // float4x2, two numbers in a byte, is one element
// Of so many of them, which may be any number that a caller gives: the most that there is if it is more.
uint64_t bytes_of(size_t elements, ncclDataType_t dtype);
const char* dtype_name(ncclDataType_t dtype);
// Of rows that are summed: bfloat16, float16 or float32.
DType dtype_of(ncclDataType_t dtype);

// How the LSA team addresses a tensor that has a window.
PeerWindow peers_of(const char* field, const ncclEpTensor_t& tensor, runtime::Communicator& comm);
// The tensor's address on this rank, whether given as data or through a window; checked for alignment.
void* address_of(const char* field, const ncclEpTensor_t& tensor, runtime::Communicator& comm, size_t alignment);

// A row of tokens must be a positive multiple of 16 bytes, and with the scales that travel beside it within the group's
// max_token_bytes.
void check_row(const char* field, size_t elements, ncclDataType_t dtype, uint64_t scale_bytes,
               uint64_t max_token_bytes);

}  // namespace nccl_ep::core

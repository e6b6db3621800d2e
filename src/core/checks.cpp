// SPDX-License-Identifier: Apache-2.0
#include "core/checks.hpp"

#include <algorithm>

namespace nccl_ep::core {
namespace {

// Cold: a call that succeeds should not have to read past the code of its messages.
[[noreturn, gnu::cold]] void refuse_dtype(const char* field, ncclDataType_t found,
                                          std::initializer_list<ncclDataType_t> dtypes) {
  std::string expected;
  for (ncclDataType_t dtype : dtypes) expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  refuse(ncclInvalidArgument, field,
         "datatype is " + std::string(dtype_name(found)) + " (" + std::to_string(static_cast<int>(found)) +
             "), expected " + expected);
}

[[noreturn, gnu::cold]] void refuse_extent(const char* field, size_t dim, size_t found, const Extent& expected) {
  refuse(ncclInvalidArgument, field,
         "extent " + std::to_string(dim) + " is " + std::to_string(found) + ", expected " +
             (expected.rule == Extent::at_least ? "at least " : "") + std::to_string(expected.value) + " = " +
             expected.meaning);
}

[[noreturn, gnu::cold]] void refuse_row(const char* field, size_t elements, ncclDataType_t dtype, uint64_t scale_bytes,
                                        const std::string& expected) {
  refuse(ncclInvalidArgument, field,
         "a row of " + number(elements) + " " + dtype_name(dtype) + " has " + number(bytes_of(elements, dtype)) +
             " bytes" + (scale_bytes ? " and its scales " + number(scale_bytes) : "") + ", expected " + expected);
}

}  // namespace

const char* dtype_name(ncclDataType_t dtype) {
  switch (static_cast<int>(dtype)) {
    case ncclInt8: return "int8";
    case ncclUint8: return "uint8";
    case ncclInt32: return "int32";
    case ncclUint32: return "uint32";
    case ncclInt64: return "int64";
    case ncclUint64: return "uint64";
    case ncclFloat16: return "float16";
    case ncclFloat32: return "float32";
    case ncclFloat64: return "float64";
    case ncclBfloat16: return "bfloat16";
    case ncclFloat8e4m3: return "float8e4m3";
    case ncclFloat8e5m2: return "float8e5m2";
    case ncclFloat4x2: return "float4x2";
    default: return "unknown";
  }
}

size_t element_bytes(ncclDataType_t dtype) {
  switch (static_cast<int>(dtype)) {
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    default: return 1;
  }
}

uint64_t bytes_of(size_t elements, ncclDataType_t dtype) {
  uint64_t bytes = 0;
  return __builtin_mul_overflow(elements, element_bytes(dtype), &bytes) ? UINT64_MAX : bytes;
}

DType dtype_of(ncclDataType_t dtype) {
  if (dtype == ncclBfloat16) return DType::bf16;
  return dtype == ncclFloat16 ? DType::fp16 : DType::fp32;
}

bool is_empty(const ncclEpTensor_t& tensor) {
  return std::any_of(tensor.sizes, tensor.sizes + tensor.ndim, [](size_t extent) { return extent == 0; });
}

void check_dtype(const char* field, const ncclEpTensor_t& tensor, std::initializer_list<ncclDataType_t> dtypes) {
  if (std::find(dtypes.begin(), dtypes.end(), tensor.datatype) == dtypes.end()) {
    refuse_dtype(field, tensor.datatype, dtypes);
  }
}

void check_tensor(const char* field, const ncclEpTensor_t* tensor, std::initializer_list<ncclDataType_t> dtypes,
                  std::initializer_list<Extent> extents) {
  if (!tensor) refuse(ncclInvalidArgument, field, "is NULL, expected a tensor");
  check_dtype(field, *tensor, dtypes);
  if (tensor->ndim != extents.size()) {
    refuse(ncclInvalidArgument, field,
           "has " + std::to_string(tensor->ndim) + " dimensions, expected " + std::to_string(extents.size()));
  }
  size_t dim = 0;
  for (const Extent& extent : extents) {
    const size_t found = tensor->sizes[dim];
    if (extent.rule == Extent::exactly ? found != extent.value : found < extent.value) {
      refuse_extent(field, dim, found, extent);
    }
    ++dim;
  }
}

void check_absent(const char* field, const ncclEpTensor_t* tensor, const char* why) {
  if (tensor) refuse(ncclInvalidArgument, field, std::string("is given, expected NULL: ") + why);
}

void check_topk_idx(const ncclEpTensor_t* topk_idx, uint32_t num_topk, uint32_t max_tokens) {
  const size_t num_tokens = topk_idx && topk_idx->ndim > 0 ? topk_idx->sizes[0] : 0;
  check_tensor("topk_idx", topk_idx, {ncclInt32, ncclInt64},
               {{num_tokens, "tokens"}, {num_topk, "num_topk of the handle"}});
  if (num_tokens > max_tokens) {
    refuse(ncclInvalidArgument, "topk_idx",
           "extent 0 is " + number(num_tokens) + ", expected at most " + number(max_tokens) +
               " = max_dispatch_tokens_per_rank");
  }
}

const int32_t* num_tokens_at(const ncclEpLayoutInfo_t& info, runtime::Communicator& comm) {
  if (!info.num_tokens) return nullptr;
  check_tensor(kNumTokens, info.num_tokens, {ncclInt32}, {{1, "one number"}});
  return static_cast<const int32_t*>(address_of(kNumTokens, *info.num_tokens, comm, sizeof(int32_t)));
}

void check_power_of_two(const char* field, size_t value) {
  if (value & (value - 1)) refuse(ncclInvalidArgument, field, "is " + number(value) + ", expected 0 or a power of two");
}

void check_window(const char* field, const ncclEpTensor_t& tensor, ncclEpZeroCopyMode_t mode) {
  if (mode != NCCL_EP_ZERO_COPY_ON || tensor.win_hdl) return;
  refuse(ncclInvalidArgument, field, "has no window, expected one with config.zero_copy ON");
}

PeerWindow peers_of(const char* field, const ncclEpTensor_t& tensor, runtime::Communicator& comm) {
  try {
    return comm.peers(tensor.win_hdl, tensor.win_offset);
  } catch (const Error& error) {
    refuse(error.code(), field,
           "win_hdl and win_offset (" + number(tensor.win_offset) +
               ") are of no use, expected a window of the group's communicator and an offset into it: " + error.what());
  }
}

void* address_of(const char* field, const ncclEpTensor_t& tensor, runtime::Communicator& comm, size_t alignment) {
  void* data = tensor.data;
  if (!data && tensor.win_hdl) data = peers_of(field, tensor, comm).at<void>(comm.lsa_rank(), 0);
  if (!data && !is_empty(tensor)) refuse(ncclInvalidArgument, field, "has neither data nor a window");
  if (reinterpret_cast<uintptr_t>(data) % alignment != 0) {
    refuse(ncclInvalidArgument, field,
           "data is at " + std::to_string(reinterpret_cast<uintptr_t>(data) % alignment) +
               " bytes past a multiple of " + std::to_string(alignment) + ", expected an address that is one");
  }
  return data;
}

void check_row(const char* field, size_t elements, ncclDataType_t dtype, uint64_t scale_bytes,
               uint64_t max_token_bytes) {
  const uint64_t bytes = bytes_of(elements, dtype);
  if (bytes > max_token_bytes || scale_bytes > max_token_bytes - bytes) {
    refuse_row(field, elements, dtype, scale_bytes,
               "at most " + number(max_token_bytes) + " = max_token_bytes of the group");
  }
  if (bytes == 0 || bytes % 16 != 0) refuse_row(field, elements, dtype, 0, "a positive multiple of 16");
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
#include "api/decode.hpp"

#include <cstdio>

#include "core/checks.hpp"

namespace nccl_ep::api {
namespace {

std::string hex(unsigned value) {
  char text[11];
  std::snprintf(text, sizeof(text), "0x%08X", value);
  return text;
}

}  // namespace

void check_struct_header(const char* field, const char* type, unsigned size, unsigned magic, unsigned v1_size) {
  if (magic != NCCL_EP_MAGIC) {
    refuse(ncclInvalidArgument, field,
           "magic is " + hex(magic) + ", expected " + hex(NCCL_EP_MAGIC) + ": initialise " + type +
               " with its INIT macro");
  }
  if (size < v1_size) {
    refuse(ncclInvalidArgument, field,
           "size is " + std::to_string(size) + ", expected at least " + std::to_string(v1_size) + ": initialise " +
               type + " with its INIT macro");
  }
}

ncclEpGroupConfig_t decode_group_config(const ncclEpGroupConfig_t* config) {
  const ncclEpGroupConfig_t current = decode_required("config", config);
  decode_enum("config.algorithm", current.algorithm, NCCL_EP_ALGO_HIGH_THROUGHPUT);
  decode_enum("config.zero_copy", current.zero_copy, NCCL_EP_ZERO_COPY_ON);
  decode_enum("config.overflow_policy", current.overflow_policy, NCCL_EP_OVERFLOW_DROP);
  return current;
}

const ncclEpTensor_t* decode_tensor(const char* field, const ncclEpTensor_t* tensor) {
  if (!tensor) return nullptr;
  if (tensor->magic != NCCL_EP_TENSOR_MAGIC && tensor->magic != kAllocatedTensorMagic) {
    refuse(ncclInvalidArgument, field,
           "magic is " + hex(tensor->magic) + ", expected " + hex(NCCL_EP_TENSOR_MAGIC) +
               ": initialise ncclEpTensor_t with NCCL_EP_TENSOR_INIT");
  }
  if (tensor->size < NCCL_EP_TENSOR_V1_SIZE) {
    refuse(ncclInvalidArgument, field,
           "size is " + std::to_string(tensor->size) + ", expected at least " + std::to_string(NCCL_EP_TENSOR_V1_SIZE) +
               ": initialise ncclEpTensor_t with NCCL_EP_TENSOR_INIT");
  }
  if (tensor->magic == kAllocatedTensorMagic && !has_own_sizes(*tensor)) {
    refuse(ncclInvalidArgument, field,
           "sizes was changed since ncclEpTensorAlloc, or the descriptor copied; expected the original pointer");
  }
  if (tensor->ndim == 0) refuse(ncclInvalidArgument, field, "ndim is 0, expected at least 1");
  if (!tensor->sizes) {
    refuse(ncclInvalidArgument, field, "sizes is NULL, expected " + std::to_string(tensor->ndim) + " extents");
  }
  if (!tensor->data && !tensor->win_hdl && !core::is_empty(*tensor)) {
    refuse(ncclInvalidArgument, field, "data and win_hdl are NULL, expected one of them, or a zero extent");
  }
  return tensor;
}

const ncclEpTensor_t* decode_required_tensor(const char* field, const ncclEpTensor_t* tensor) {
  require(field, tensor, "a tensor");
  return decode_tensor(field, tensor);
}

void refuse_enum(const char* field, unsigned number, unsigned last) {
  refuse(ncclInvalidArgument, field, "is " + std::to_string(number) + ", expected 0 to " + std::to_string(last));
}

}  // namespace nccl_ep::api

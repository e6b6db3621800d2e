// SPDX-License-Identifier: Apache-2.0
// The caller's structs, of any version, as structs of this version; descriptors checked to be well formed.
#pragma once

#include <cstring>

#include "api/error.hpp"

namespace nccl_ep::api {

// Name, smallest valid size and defaults of each public struct.
template <class Struct>
struct Versions;

#define NCCL_EP_VERSIONS(type, prefix)                         \
  template <>                                                  \
  struct Versions<type> {                                      \
    static constexpr const char* kName = #type;                \
    static constexpr unsigned kV1Size = prefix##_V1_SIZE;      \
    static constexpr type defaults() { return prefix##_INIT; } \
  }

NCCL_EP_VERSIONS(ncclEpTensorAllocConfig_t, NCCL_EP_TENSOR_ALLOC_CONFIG);
NCCL_EP_VERSIONS(ncclEpGroupConfig_t, NCCL_EP_GROUP_CONFIG);
NCCL_EP_VERSIONS(ncclEpLayoutInfo_t, NCCL_EP_LAYOUT_INFO);
NCCL_EP_VERSIONS(ncclEpHandleConfig_t, NCCL_EP_HANDLE_CONFIG);
NCCL_EP_VERSIONS(ncclEpDispatchInputs_t, NCCL_EP_DISPATCH_INPUTS);
NCCL_EP_VERSIONS(ncclEpDispatchOutputs_t, NCCL_EP_DISPATCH_OUTPUTS);
NCCL_EP_VERSIONS(ncclEpDispatchConfig_t, NCCL_EP_DISPATCH_CONFIG);
NCCL_EP_VERSIONS(ncclEpCombineInputs_t, NCCL_EP_COMBINE_INPUTS);
NCCL_EP_VERSIONS(ncclEpCombineOutputs_t, NCCL_EP_COMBINE_OUTPUTS);
NCCL_EP_VERSIONS(ncclEpCombineConfig_t, NCCL_EP_COMBINE_CONFIG);
NCCL_EP_VERSIONS(ncclEpCompleteConfig_t, NCCL_EP_COMPLETE_CONFIG);
NCCL_EP_VERSIONS(ncclEpCapabilityQuery_t, NCCL_EP_CAPABILITY_QUERY);
NCCL_EP_VERSIONS(ncclEpCapabilities_t, NCCL_EP_CAPABILITIES);

#undef NCCL_EP_VERSIONS

// Throws unless the struct's first two words are what its INIT macro writes, or a version's newer than v1.
void check_struct_header(const char* field, const char* type, unsigned size, unsigned magic, unsigned v1_size);

// The part of `given` that both sides know, over defaults. NULL: all defaults.
template <class Struct>
Struct decode_optional(const char* field, const Struct* given) {
  Struct result = Versions<Struct>::defaults();
  if (!given) return result;
  check_struct_header(field, Versions<Struct>::kName, given->size, given->magic, Versions<Struct>::kV1Size);
  if (given->size >= sizeof(Struct)) {
    result = *given;
  } else {
    std::memcpy(&result, given, given->size);
  }
  result.size = sizeof(Struct);
  result.magic = NCCL_EP_MAGIC;
  return result;
}

template <class Struct>
Struct decode_required(const char* field, const Struct* given) {
  require(field, given, Versions<Struct>::kName);
  return decode_optional(field, given);
}

// A group's configuration, of which each field by itself can be.
ncclEpGroupConfig_t decode_group_config(const ncclEpGroupConfig_t* config);

// A descriptor that is well formed, whatever it describes; NULL stays NULL.
const ncclEpTensor_t* decode_tensor(const char* field, const ncclEpTensor_t* tensor);
// The same, and it must be given.
const ncclEpTensor_t* decode_required_tensor(const char* field, const ncclEpTensor_t* tensor);

// ncclEpTensorAlloc's mark on its own descriptors. Their extents follow them in the same piece of memory.
constexpr unsigned kAllocatedTensorMagic = 0xBEEFBEEFu;
inline bool has_own_sizes(const ncclEpTensor_t& tensor) {
  return tensor.sizes == reinterpret_cast<const size_t*>(&tensor + 1);
}

[[noreturn, gnu::cold]] void refuse_enum(const char* field, unsigned number, unsigned last);

// An enumeration's value, from 0 to `last`. Callers may pass any number, so it is read as one first.
template <class Enum>
Enum decode_enum(const char* field, const Enum& value, Enum last) {
  static_assert(sizeof(Enum) == sizeof(unsigned));
  unsigned number;
  std::memcpy(&number, &value, sizeof(number));
  if (number > static_cast<unsigned>(last)) refuse_enum(field, number, static_cast<unsigned>(last));
  return value;
}

}  // namespace nccl_ep::api

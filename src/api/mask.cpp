// SPDX-License-Identifier: Apache-2.0
// Rank masks: no group of this version can have any, so every call that is well formed is refused.
#include "api/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

[[noreturn]] void refuse_mask() {
  refuse(ncclInvalidUsage, "ep_group", "has no config.enable_mask; rank masks are not available in this version");
}

}  // namespace

extern "C" ncclResult_t ncclEpMaskQuery(ncclEpGroup_t ep_group, int* mask_status, cudaStream_t) {
  return guarded("ncclEpMaskQuery", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("mask_status", mask_status, "device memory for the mask");
    refuse_mask();
  });
}

extern "C" ncclResult_t ncclEpMaskUpdate(ncclEpGroup_t ep_group, const int* mask, cudaStream_t) {
  return guarded("ncclEpMaskUpdate", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("mask", mask, "a mask in host memory");
    refuse_mask();
  });
}

extern "C" ncclResult_t ncclEpMaskClean(ncclEpGroup_t ep_group, cudaStream_t) {
  return guarded("ncclEpMaskClean", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    refuse_mask();
  });
}

extern "C" ncclResult_t ncclEpErrorClear(ncclEpGroup_t ep_group) {
  return guarded("ncclEpErrorClear", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    refuse_mask();
  });
}

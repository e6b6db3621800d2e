// SPDX-License-Identifier: Apache-2.0
// Rank masks, and forgetting that a rank was lost.
#include "api/error.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

extern "C" ncclResult_t ncclEpMaskQuery(ncclEpGroup_t ep_group, int* mask_status, cudaStream_t stream) {
  return guarded("ncclEpMaskQuery", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("mask_status", mask_status, "device memory for the mask");
    ep_group->group->mask().query(mask_status, stream);
  });
}

extern "C" ncclResult_t ncclEpMaskUpdate(ncclEpGroup_t ep_group, const int* mask, cudaStream_t stream) {
  return guarded("ncclEpMaskUpdate", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("mask", mask, "a mask in host memory");
    ep_group->group->update_mask(mask, stream);
  });
}

extern "C" ncclResult_t ncclEpMaskClean(ncclEpGroup_t ep_group, cudaStream_t stream) {
  return guarded("ncclEpMaskClean", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    ep_group->group->clean_mask(stream);
  });
}

extern "C" ncclResult_t ncclEpErrorClear(ncclEpGroup_t ep_group) {
  return guarded("ncclEpErrorClear", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    ep_group->group->clear_error();
  });
}

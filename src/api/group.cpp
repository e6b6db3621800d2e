// SPDX-License-Identifier: Apache-2.0
#include "api/decode.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

extern "C" ncclResult_t ncclEpCreateGroup(ncclEpGroup_t* ep_group, ncclComm_t comm, const ncclEpGroupConfig_t* config) {
  if (ep_group) *ep_group = nullptr;
  return guarded("ncclEpCreateGroup", nullptr, [&] {
    require("ep_group", ep_group, "a place for the group");
    require("comm", comm, "a communicator");
    const ncclEpGroupConfig_t current = decode_group_config(config);
    auto result = std::make_unique<ncclEpGroup>();
    result->group = core::Group::create(runtime::open_communicator(comm), current);
    *ep_group = result.release();
  });
}

extern "C" ncclResult_t ncclEpGroupDestroy(ncclEpGroup_t ep_group) {
  return guarded("ncclEpGroupDestroy", ep_group, [&] {
    if (!ep_group) return;
    if (const int num_handles = ep_group->num_handles) {
      refuse(ncclInvalidUsage, "ep_group",
             "has " + std::to_string(num_handles) + " handles, expected ncclEpHandleDestroy for each of them first");
    }
    delete ep_group;
  });
}

extern "C" ncclResult_t ncclEpGetAsyncError(ncclEpGroup_t ep_group, int* error_out) {
  return guarded("ncclEpGetAsyncError", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("error_out", error_out, "a place for the error");
    const core::AsyncError found = ep_group->group->async_error();
    if (found.code != ncclSuccess) remember("ncclEpGetAsyncError", ep_group, found.message);
    *error_out = found.code;
  });
}

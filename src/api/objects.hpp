// SPDX-License-Identifier: Apache-2.0
// What the opaque pointers of the API point at.
#pragma once

#include <atomic>
#include <memory>

#include "core/handle.hpp"

struct ncclEpGroup {
  std::unique_ptr<nccl_ep::core::Group> group;
  std::atomic<int> num_handles = 0;
};

struct ncclEpHandle {
  explicit ncclEpHandle(ncclEpGroup& owner) : group(owner) { ++group.num_handles; }
  ~ncclEpHandle() {
    handle.reset();
    --group.num_handles;
  }
  ncclEpHandle(const ncclEpHandle&) = delete;
  ncclEpHandle& operator=(const ncclEpHandle&) = delete;

  ncclEpGroup& group;
  std::unique_ptr<nccl_ep::core::Handle> handle;
};

namespace nccl_ep::api {

// The group that a failure with this handle is about.
inline ncclEpGroup_t group_of(ncclEpHandle_t handle) { return handle ? &handle->group : nullptr; }

}  // namespace nccl_ep::api

// SPDX-License-Identifier: Apache-2.0
#include "core/handle.hpp"

#include "core/checks.hpp"

namespace nccl_ep::core {

Handle::Handle(Group& group, size_t bytes, const ncclEpTensor_t* handle_mem) {
  if (handle_mem) {
    check_tensor("handle_mem", handle_mem, {ncclUint8}, {{bytes, "ncclEpHandleMemSize", Extent::at_least}});
    memory_ = DeviceMemory::borrowed(address_of("handle_mem", *handle_mem, group.comm(), 16));
  } else {
    Allocator& allocator = group.allocator();
    memory_ = DeviceMemory(allocator, allocator.allocate(bytes, "handle memory"));
  }
}

void Handle::require_routing() const {
  if (!has_routing_) throw Error(ncclInvalidUsage, "the handle has no routing, expected ncclEpUpdateHandle first");
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
#include "core/handle.hpp"

#include "core/checks.hpp"

namespace nccl_ep::core {

Handle::Handle(Group& group, size_t bytes, const ncclEpTensor_t* handle_mem) : owner_(group) {
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

void Handle::note_ranks(cudaStream_t stream) {
  num_cleanings_ = owner_.num_cleanings();
  is_in_graph_ = is_in_graph_ || owner_.device().is_capturing(stream);
}

void Handle::refuse_if_stale(const char* call, cudaStream_t stream) const {
  if (is_in_graph_ || owner_.device().is_capturing(stream)) return;
  throw Error(ncclInvalidUsage,
              std::string("the handle has had no ") + call +
                  " since ncclEpMaskClean, expected one first: ranks may be back that it does not know");
}

}  // namespace nccl_ep::core

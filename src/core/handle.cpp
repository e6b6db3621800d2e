// SPDX-License-Identifier: Apache-2.0
#include "core/handle.hpp"

#include "core/checks.hpp"

namespace nccl_ep::core {

std::unique_ptr<Handle> Handle::create(Group& group, ncclEpLayout_t layout, const ncclEpHandleConfig_t& config,
                                       int num_topk, const ncclEpTensor_t* handle_mem) {
  group.throw_if_faulted();
  const LlHandleLayout handle_layout = group.handle_layout(layout, config, num_topk);
  std::unique_ptr<Handle> handle(new Handle(group));
  handle->layout_ = layout;
  handle->routing_.num_topk = static_cast<uint32_t>(num_topk);
  handle->routing_.handle_layout = handle_layout;
  if (handle_mem) {
    check_tensor("handle_mem", handle_mem, {ncclUint8},
                 {{handle_layout.size(), "ncclEpHandleMemSize", Extent::at_least}});
    handle->memory_ = DeviceMemory::borrowed(address_of("handle_mem", *handle_mem, group.comm(), 16));
  } else {
    Allocator& allocator = group.allocator();
    handle->memory_ = DeviceMemory(allocator, allocator.allocate(handle_layout.size(), "handle memory"));
  }
  handle->routing_.handle_memory = handle->memory_.as<unsigned char>();
  return handle;
}

Handle::~Handle() {
  if (group_.pending == this) group_.pending = nullptr;
}

void Handle::require_idle() const {
  if (!group_.pending) return;
  throw Error(ncclInvalidUsage, std::string(group_.pending == this ? "this handle" : "another handle of the group") +
                                    " has a send_only operation pending, expected ncclEpComplete on it first");
}

void Handle::require_routing() const {
  if (!has_routing_) throw Error(ncclInvalidUsage, "the handle has no routing, expected ncclEpUpdateHandle first");
}

void Handle::update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info, cudaStream_t) {
  group_.throw_if_faulted();
  require_idle();
  if (layout_info) {
    refuse(ncclInvalidArgument, "layout_info", "is given, expected NULL: Low Latency counts in ncclEpDispatch");
  }
  const size_t num_tokens = topk_idx && topk_idx->ndim > 0 ? topk_idx->sizes[0] : 0;
  check_tensor("topk_idx", topk_idx, {ncclInt32, ncclInt64},
               {{num_tokens, "tokens"}, {routing_.num_topk, "num_topk of the handle"}});
  const uint32_t max_tokens = group_.ll_shape().max_tokens;
  if (num_tokens > max_tokens) {
    refuse(ncclInvalidArgument, "topk_idx",
           "extent 0 is " + std::to_string(num_tokens) + ", expected at most " + std::to_string(max_tokens) +
               " = max_dispatch_tokens_per_rank");
  }
  routing_.topk_idx = address_of("topk_idx", *topk_idx, group_.comm(), element_bytes(topk_idx->datatype));
  routing_.idx_is_64bit = topk_idx->datatype == ncclInt64;
  routing_.num_tokens = static_cast<uint32_t>(num_tokens);
  has_routing_ = true;
  has_dispatched_ = false;
}

template <class Args>
void Handle::launch(LlOperation<Args>& operation, uint32_t phases, cudaStream_t stream) {
  operation.args.phases = phases;
  group_.device().launch(operation.kernel, operation.shape, &operation.args, sizeof(Args), stream);
}

template <class Args>
void Handle::start(LlOperation<Args>&& operation, bool send_only, cudaStream_t stream) {
  launch(operation, send_only ? kLlSend : kLlSend | kLlReceive, stream);
  if (!send_only) return;
  pending_ = operation;
  group_.pending = this;
}

void Handle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_routing();
  start(ll_dispatch(request), request.send_only, stream);
  has_dispatched_ = true;
}

void Handle::combine(const CombineRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_routing();
  if (!has_dispatched_) {
    throw Error(ncclInvalidUsage, "the handle's routing has not been dispatched, expected ncclEpDispatch first");
  }
  start(ll_combine(request), request.send_only, stream);
}

void Handle::complete(cudaStream_t stream) {
  group_.throw_if_faulted();
  if (group_.pending != this) return;
  std::visit([&](auto& operation) { launch(operation, kLlReceive, stream); }, pending_);
  group_.pending = nullptr;
}

}  // namespace nccl_ep::core

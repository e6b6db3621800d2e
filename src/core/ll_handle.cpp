// SPDX-License-Identifier: Apache-2.0
#include "core/ll_handle.hpp"

#include "core/checks.hpp"

namespace nccl_ep::core {

void refuse_backward_pass() {
  refuse(ncclInvalidUsage, "config.pass_direction",
         "is NCCL_EP_BWD_PASS, expected NCCL_EP_FWD_PASS: Low Latency has no backward pass");
}

LlHandle::LlHandle(LlGroup& group, ncclEpLayout_t layout, const LlHandleLayout& memory_layout, uint32_t num_topk,
                   const ncclEpTensor_t* handle_mem)
    : Handle(group, group.shape().handle_bytes(memory_layout), handle_mem),
      group_(group),
      layout_(static_cast<Layout>(layout)) {
  routing_.num_topk = num_topk;
  routing_.handle_layout = memory_layout;
  routing_.handle_memory = memory();
}

LlHandle::~LlHandle() {
  if (group_.pending == this) group_.pending = nullptr;
}

void LlHandle::require_idle() const {
  if (!group_.pending) return;
  throw Error(ncclInvalidUsage, std::string(group_.pending == this ? "this handle" : "another handle of the group") +
                                    " has a send_only operation pending, expected ncclEpComplete on it first");
}

void LlHandle::update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info, cudaStream_t) {
  group_.throw_if_faulted();
  require_idle();
  if (layout_info) {
    refuse(ncclInvalidArgument, "layout_info", "is given, expected NULL: Low Latency counts in ncclEpDispatch");
  }
  check_topk_idx(topk_idx, routing_.num_topk, group_.shape().max_tokens);
  routing_.topk_idx = address_of("topk_idx", *topk_idx, group_.comm(), element_bytes(topk_idx->datatype));
  routing_.idx_is_64bit = topk_idx->datatype == ncclInt64;
  routing_.num_tokens = static_cast<uint32_t>(topk_idx->sizes[0]);
  note_routing();
  has_dispatched_ = false;
}

template <class Args>
void LlHandle::launch(LlOperation<Args>& operation, uint32_t phases, cudaStream_t stream) {
  operation.args.phases = phases;
  group_.device().launch(operation.kernel, operation.shape, &operation.args, sizeof(Args), stream);
}

template <class Args>
void LlHandle::start(LlOperation<Args>&& operation, bool send_only, cudaStream_t stream) {
  launch(operation, send_only ? kLlSend : kLlSend | kLlReceive, stream);
  if (!send_only) return;
  pending_ = operation;
  group_.pending = this;
}

void LlHandle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_routing();
  start(prepare(request), request.send_only, stream);
  has_dispatched_ = true;
}

void LlHandle::combine(const CombineRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_routing();
  if (!has_dispatched_) {
    throw Error(ncclInvalidUsage, "the handle's routing has not been dispatched, expected ncclEpDispatch first");
  }
  start(prepare(request), request.send_only, stream);
}

void LlHandle::complete(cudaStream_t stream) {
  group_.throw_if_faulted();
  if (group_.pending != this) return;
  std::visit([&](auto& operation) { launch(operation, kLlReceive, stream); }, pending_);
  group_.pending = nullptr;
}

}  // namespace nccl_ep::core

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

LlHandle::~LlHandle() { group_.forget(this); }

void LlHandle::require_idle() const {
  if (!group_.pending().has(this)) return;
  throw Error(ncclInvalidUsage, "this handle has a send_only operation pending, expected ncclEpComplete on it first");
}

void LlHandle::require_bank() const {
  if (group_.has_stray_messages()) {
    throw Error(
        ncclInvalidUsage,
        "a handle of the group was destroyed while a send_only operation of it was pending, expected "
        "ncclEpComplete before: across LSA teams its messages may still be under way, and only a new group helps");
  }
  if (!group_.pending().blocks_next()) return;
  throw Error(
      ncclInvalidUsage,
      "another handle of the group has a send_only operation pending, the last but one, expected ncclEpComplete "
      "on it first");
}

void LlHandle::update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t& info, cudaStream_t) {
  group_.throw_if_faulted();
  require_idle();
  const char* why = "Low Latency counts in ncclEpDispatch";
  check_absent(kExpertCounters, info.expert_counters, why);
  check_absent(kSourceCounters, info.src_rank_counters, why);
  check_absent(kOffsets, info.expert_offsets, why);
  check_absent(kTotal, info.recv_total_counter, why);
  check_topk_idx(topk_idx, routing_.num_topk, group_.shape().max_tokens);
  const TokenCount tokens{static_cast<uint32_t>(topk_idx->sizes[0]), num_tokens_at(info, group_.comm())};
  routing_.topk_idx = address_of("topk_idx", *topk_idx, group_.comm(), element_bytes(topk_idx->datatype));
  routing_.idx_is_64bit = topk_idx->datatype == ncclInt64;
  routing_.tokens = tokens;
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
  operation.args.num_pending = group_.pending().before_next();
  launch(operation, send_only ? kLlSend : kLlSend | kLlReceive, stream);
  group_.pending().begin(send_only ? this : nullptr);
  if (send_only) pending_ = operation;
}

void LlHandle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_bank();
  require_routing();
  start(prepare(request), request.send_only, stream);
  has_dispatched_ = true;
  if (group_.has_masks()) note_ranks(stream);
}

void LlHandle::combine(const CombineRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_idle();
  require_bank();
  require_routing();
  if (!has_dispatched_) {
    throw Error(ncclInvalidUsage, "the handle's routing has not been dispatched, expected ncclEpDispatch first");
  }
  require_ranks("ncclEpDispatch", stream);
  start(prepare(request), request.send_only, stream);
}

void LlHandle::complete(cudaStream_t stream) {
  group_.throw_if_faulted();
  if (!group_.pending().has(this)) return;
  std::visit([&](auto& operation) { launch(operation, kLlReceive, stream); }, pending_);
  group_.pending().end(this);
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine on the host: check, plan, fill the arguments.
#include "core/ht_handle.hpp"

namespace nccl_ep::core {
namespace {

// The gradients of the weights, which the backward pass sends home.
void check_weights(const CombineRequest& request, bool is_expert_major, const Extent& rows, uint32_t num_tokens,
                   uint32_t num_topk) {
  const Extent topk{num_topk, "num_topk of the handle"};
  if (is_expert_major) {
    check_tensor(kWeights, request.topk_weights, {ncclFloat32}, {rows});
  } else {
    check_tensor(kWeights, request.topk_weights, {ncclFloat32}, {rows, topk});
  }
  check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32}, {{num_tokens, "tokens of topk_idx"}, topk});
}

}  // namespace

RowPaths HtGroup::check_rows(const CombineRequest& request, const Extent& rows) const {
  check_plain(request);
  const size_t hidden = request.tokens && request.tokens->ndim > 1 ? request.tokens->sizes[1] : 0;
  check_tensor(kTokens, request.tokens, {ncclBfloat16, ncclFloat16, ncclFloat32}, {rows, {hidden, "hidden"}});
  check_row(kTokens, hidden, request.tokens->datatype, 0, config().max_token_bytes);
  check_window(kTokens, *request.tokens, config().zero_copy);
  return {kReadInPlace, {}, kWrittenInPlace, {}};
}

void HtHandle::combine(const CombineRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_routing();
  const Extent rows = input_rows(request.tokens, stream);
  group_.check_rows(request, rows);
  const size_t hidden = request.tokens->sizes[1];
  const uint64_t row_bytes = hidden * element_bytes(request.tokens->datatype);
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{num_tokens_, "tokens of topk_idx"}, {hidden, "hidden of inputs.tokens"}});
  const bool is_forward = request.pass_direction == NCCL_EP_FWD_PASS;
  if (is_forward) {
    check_absent(kWeights, request.topk_weights, "the forward pass sums rows that the caller has weighted");
  } else {
    check_weights(request, is_expert_major(), rows, num_tokens_, num_topk());
  }

  const plan::HtRowPlan plan = plan::plan_ht_combine(layout_, row_bytes, group_.move_limits(layout_), group_.tuning());
  runtime::Communicator& comm = group_.comm();
  HtCombineArgs args{};
  args.group = group_.state();
  args.handle = state_;
  args.move = plan.move;
  args.move.pushed = group_.pushed();
  args.move.num_begun = group_.num_begun();
  args.num_topk = num_topk();
  args.tokens = static_cast<const unsigned char*>(address_of(kTokens, *request.tokens, comm, 16));
  args.out_tokens = static_cast<unsigned char*>(address_of(kOutTokens, *request.out_tokens, comm, 16));
  if (!is_forward) {
    args.topk_weights = static_cast<const float*>(address_of(kWeights, *request.topk_weights, comm, 4));
    args.out_topk_weights = static_cast<float*>(address_of(kOutWeights, *request.out_topk_weights, comm, 4));
  }
  args.network = group_.network();
  args.parcels = {static_cast<uint32_t>(row_bytes), is_forward ? 0 : num_topk()};
  args.num_ready = group_.num_ready();
  launch(group_.kernels().at(jit::Op::combine, layout_, dtype_of(request.tokens->datatype)), plan.launch, args, stream);
}

}  // namespace nccl_ep::core

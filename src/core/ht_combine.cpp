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

// What quantizes on the way goes forward.
void HtGroup::check_recipe(const CombineRequest& request, size_t hidden) const {
  if (request.recipe == NCCL_EP_COMB_QUANT_NVFP4 && !config().exact_combine) {
    refuse(ncclInvalidUsage, kRecipe,
           "is NCCL_EP_COMB_QUANT_NVFP4 (1), expected NCCL_EP_COMB_QUANT_NONE (0) or NCCL_EP_COMB_QUANT_FP8 (2): this "
           "version has it in Low Latency");
  }
  check_combine_recipe(request, hidden, config().exact_combine != 0);
  if (request.recipe == NCCL_EP_COMB_QUANT_NONE) return;
  if (request.pass_direction != NCCL_EP_FWD_PASS) {
    refuse(ncclInvalidUsage, "config.pass_direction",
           "is NCCL_EP_BWD_PASS, expected NCCL_EP_FWD_PASS with NCCL_EP_COMB_QUANT_FP8: gradients are not quantized");
  }
}

RowPaths HtGroup::check_rows(const CombineRequest& request, const Extent& rows) const {
  const size_t hidden = request.tokens && request.tokens->ndim > 1 ? request.tokens->sizes[1] : 0;
  check_recipe(request, hidden);
  check_tensor(kTokens, request.tokens, {ncclBfloat16, ncclFloat16, ncclFloat32}, {rows, {hidden, "hidden"}});
  check_row(kTokens, hidden, request.tokens->datatype, 0, config().max_token_bytes);
  check_window(kTokens, *request.tokens, config().zero_copy);
  return {kReadInPlace, {}, kWrittenInPlace, {}};
}

void HtHandle::combine(const CombineRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_routing();
  require_ranks("ncclEpUpdateHandle", stream);
  const Extent rows = input_rows(request.tokens, stream);
  group_.check_rows(request, rows);
  const size_t hidden = request.tokens->sizes[1];
  const uint64_t row_bytes = bytes_of(hidden, request.tokens->datatype);
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{num_tokens_, "tokens of topk_idx"}, {hidden, "hidden of inputs.tokens"}});
  const bool is_forward = request.pass_direction == NCCL_EP_FWD_PASS;
  if (is_forward) {
    check_absent(kWeights, request.topk_weights, "the forward pass sums rows that the caller has weighted");
  } else {
    check_weights(request, is_expert_major(), rows, num_tokens_, num_topk());
  }

  const bool is_exact = group_.shape().exact_combine;
  const bool quantizes = request.recipe == NCCL_EP_COMB_QUANT_FP8;
  const plan::Limits& limits = quantizes ? group_.quantizing_limits() : group_.move_limits(layout_);
  // As they are, by way of stages, or from the registers in which they are made.
  const Layout moved_as = is_exact ? Layout::flat : layout_;
  const plan::HtRowPlan plan =
      quantizes ? plan::plan_ht_quantized_combine(layout_, static_cast<uint32_t>(row_bytes), limits, group_.tuning())
                : plan::plan_ht_combine(moved_as, row_bytes, limits, group_.tuning());
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
  args.dtype = dtype_of(request.tokens->datatype);
  args.is_expert_major = is_expert_major();
  args.network = group_.network();
  const uint32_t parcel_row_bytes =
      quantizes ? quantized_bytes(static_cast<uint32_t>(hidden)) : static_cast<uint32_t>(row_bytes);
  args.parcels = {args.group.layout.team_rows_of(num_topk()) * parcel_row_bytes, is_forward ? 0 : num_topk()};
  args.num_ready = group_.num_ready();
  jit::Kernels& kernels = group_.kernels();
  runtime::Kernel* kernel = is_exact    ? kernels.at(jit::exact_combine_variant(jit::Algorithm::high_throughput))
                            : quantizes ? kernels.at(jit::quantized_combine_variant())
                                        : kernels.at(jit::Op::combine, layout_, args.dtype);
  launch(kernel, plan.launch, args, stream);
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine on the host: check, plan, fill the arguments.
#include "core/ll_handle.hpp"
#include "core/recipes.hpp"

namespace nccl_ep::core {
namespace {

// What goes home of a token, and the pieces that warps take it in.
struct SentRow {
  LlRowPlan plan;
  uint32_t num_groups;  // that have a scale each; 0: the row travels as it is
};

SentRow sent_row(const CombineRequest& request, size_t hidden) {
  const auto groups_of = [&](uint32_t size) { return static_cast<uint32_t>(hidden / size); };
  switch (request.recipe) {
    case NCCL_EP_COMB_QUANT_NONE: break;
    case NCCL_EP_COMB_QUANT_NVFP4: return {LlRowPlan::make_nvfp4(groups_of(kNvfp4Group)), groups_of(kNvfp4Group)};
    case NCCL_EP_COMB_QUANT_FP8: return {LlRowPlan::make_quantized(groups_of(kScaleGroup)), groups_of(kScaleGroup)};
  }
  return {LlRowPlan::make(bytes_of(hidden, request.tokens->datatype)), 0};
}

runtime::Kernel* kernel_for(jit::Kernels& kernels, const CombineRequest& request, Layout layout, bool is_exact) {
  if (is_exact) return kernels.at(jit::exact_combine_variant(jit::Algorithm::low_latency));
  if (request.recipe == NCCL_EP_COMB_QUANT_NVFP4) return kernels.at(jit::Op::combine_nvfp4, layout);
  return kernels.at(jit::Op::combine, layout, dtype_of(request.tokens->datatype),
                    request.recipe == NCCL_EP_COMB_QUANT_FP8);
}

}  // namespace

RowPaths LlGroup::check_rows(Layout layout, const CombineRequest& request) const {
  if (request.pass_direction != NCCL_EP_FWD_PASS) refuse_backward_pass();
  const size_t hidden = request.tokens && request.tokens->ndim > 2 ? request.tokens->sizes[2] : 0;
  check_combine_recipe(request, hidden, config().exact_combine != 0);
  const auto [zones, rows] = this->zones(layout);
  check_tensor(kTokens, request.tokens, {ncclBfloat16, ncclFloat16, ncclFloat32}, {zones, rows, {hidden, "hidden"}});
  check_row(kTokens, hidden, request.tokens->datatype, 0, config().max_token_bytes);
  if (request.recipe != NCCL_EP_COMB_QUANT_NVFP4) return {kReadInPlace, {}, kWrittenInPlace, {}};
  check_tensor(kScales, request.scales, {ncclFloat32}, {zones, rows, {1, "the global scale of a row"}});
  return {kReadInPlace, kReadInPlace, kWrittenInPlace, {}};
}

LlOperation<LlCombineArgs> LlHandle::prepare(const CombineRequest& request) {
  const plan::LlShape& shape = group_.shape();
  group_.check_rows(layout_, request);
  const size_t hidden = request.tokens->sizes[2];
  const bool expert_major = layout_ == Layout::expert_major;
  if (expert_major) {
    check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32},
                 {{routing_.tokens.most, "tokens of topk_idx"}, {routing_.num_topk, "num_topk of the handle"}});
  }
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{routing_.tokens.most, "tokens of topk_idx"}, {hidden, "hidden of inputs.tokens"}});

  const SentRow row = sent_row(request, hidden);
  const plan::LlPlan plan =
      plan::plan_ll_combine(shape, layout_, row.plan, routing_.tokens.most, group_.launch_limits(), group_.tuning());
  runtime::Kernel* kernel = kernel_for(group_.kernels(), request, layout_, shape.exact_combine);
  LlOperation<LlCombineArgs> operation{kernel, plan.launch, {}};
  runtime::Communicator& comm = group_.comm();
  LlCombineArgs& args = operation.args;
  args.group = group_.state();
  args.network = group_.network();
  args.routing = routing_;
  args.rows = plan.rows;
  args.push_warps = plan.push_warps;
  args.dtype = dtype_of(request.tokens->datatype);
  args.num_groups = row.num_groups;
  args.tokens = static_cast<const unsigned char*>(address_of(kTokens, *request.tokens, comm, 16));
  args.out_tokens = static_cast<unsigned char*>(address_of(kOutTokens, *request.out_tokens, comm, 16));
  if (expert_major) {
    args.topk_weights = static_cast<const float*>(address_of(kOutWeights, *request.out_topk_weights, comm, 4));
  }
  args.global_scales = static_cast<const float*>(address_of_scales(kScales, request.scales, comm));
  return operation;
}

}  // namespace nccl_ep::core

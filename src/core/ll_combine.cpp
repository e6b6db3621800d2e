// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine on the host: check, plan, fill the arguments.
#include "core/ll_handle.hpp"
#include "core/recipes.hpp"

namespace nccl_ep::core {

RowPaths LlGroup::check_rows(Layout layout, const CombineRequest& request) const {
  if (request.pass_direction != NCCL_EP_FWD_PASS) refuse_backward_pass();
  const std::initializer_list<ncclDataType_t> dtypes = {ncclBfloat16, ncclFloat16, ncclFloat32};
  const size_t hidden = request.tokens && request.tokens->ndim > 2 ? request.tokens->sizes[2] : 0;
  check_combine_recipe(request, hidden, config().exact_combine != 0);
  if (layout == Layout::expert_major) {
    check_tensor(kTokens, request.tokens, dtypes,
                 {{shape_.num_local_experts(), "local experts"},
                  {size_t{shape_.num_ranks} * shape_.max_tokens, "ranks x max_dispatch_tokens_per_rank"},
                  {hidden, "hidden"}});
  } else {
    check_tensor(
        kTokens, request.tokens, dtypes,
        {{shape_.num_ranks, "ranks"}, {shape_.max_tokens, "max_dispatch_tokens_per_rank"}, {hidden, "hidden"}});
  }
  check_row(kTokens, hidden, request.tokens->datatype, 0, config().max_token_bytes);
  return {kReadInPlace, {}, kWrittenInPlace, {}};
}

LlOperation<LlCombineArgs> LlHandle::prepare(const CombineRequest& request) {
  const plan::LlShape& shape = group_.shape();
  group_.check_rows(layout_, request);
  const size_t hidden = request.tokens->sizes[2];
  const bool quantizes = request.recipe == NCCL_EP_COMB_QUANT_FP8;
  const bool expert_major = layout_ == Layout::expert_major;
  if (expert_major) {
    check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32},
                 {{routing_.tokens.most, "tokens of topk_idx"}, {routing_.num_topk, "num_topk of the handle"}});
  }
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{routing_.tokens.most, "tokens of topk_idx"}, {hidden, "hidden of inputs.tokens"}});
  const uint64_t row_bytes = hidden * element_bytes(request.tokens->datatype);

  const uint32_t num_groups = quantizes ? static_cast<uint32_t>(hidden / kScaleGroup) : 0;
  const LlRowPlan rows = quantizes ? LlRowPlan::make_quantized(num_groups) : LlRowPlan::make(row_bytes);
  const plan::LlPlan plan =
      plan::plan_ll_combine(shape, layout_, rows, routing_.tokens.most, group_.launch_limits(), group_.tuning());
  const DType dtype = dtype_of(request.tokens->datatype);
  runtime::Kernel* kernel = shape.exact_combine
                                ? group_.kernels().at(jit::exact_combine_variant(jit::Algorithm::low_latency))
                                : group_.kernels().at(jit::Op::combine, layout_, dtype, quantizes);
  LlOperation<LlCombineArgs> operation{kernel, plan.launch, {}};
  runtime::Communicator& comm = group_.comm();
  LlCombineArgs& args = operation.args;
  args.group = group_.state();
  args.network = group_.network();
  args.routing = routing_;
  args.rows = plan.rows;
  args.push_warps = plan.push_warps;
  args.dtype = dtype;
  args.num_groups = num_groups;
  args.tokens = static_cast<const unsigned char*>(address_of(kTokens, *request.tokens, comm, 16));
  args.out_tokens = static_cast<unsigned char*>(address_of(kOutTokens, *request.out_tokens, comm, 16));
  if (expert_major) {
    args.topk_weights = static_cast<const float*>(address_of(kOutWeights, *request.out_topk_weights, comm, 4));
  }
  return operation;
}

}  // namespace nccl_ep::core

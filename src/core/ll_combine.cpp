// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine on the host: check, plan, fill the arguments.
#include "core/checks.hpp"
#include "core/handle.hpp"

namespace nccl_ep::core {
namespace {

DType dtype_of(ncclDataType_t dtype) {
  if (dtype == ncclBfloat16) return DType::bf16;
  return dtype == ncclFloat16 ? DType::fp16 : DType::fp32;
}

void check_common(const CombineRequest& request) {
  check_forward_pass(request.pass_direction);
  if (request.recipe != NCCL_EP_COMB_QUANT_NONE) {
    refuse(ncclInvalidUsage, "config.quant_recipe",
           "is " + std::to_string(static_cast<int>(request.recipe)) +
               ", expected NCCL_EP_COMB_QUANT_NONE (0): recipes are not available in this version");
  }
  check_absent("inputs.scales", request.scales, "NCCL_EP_COMB_QUANT_NONE has no scales");
}

}  // namespace

LlOperation<LlCombineArgs> Handle::ll_combine(const CombineRequest& request) {
  const plan::LlShape& shape = group_.ll_shape();
  check_common(request);
  const std::initializer_list<ncclDataType_t> dtypes = {ncclBfloat16, ncclFloat16, ncclFloat32};
  const size_t hidden = request.tokens && request.tokens->ndim > 2 ? request.tokens->sizes[2] : 0;
  const bool expert_major = layout_ == NCCL_EP_LAYOUT_EXPERT_MAJOR;
  if (expert_major) {
    check_tensor("inputs.tokens", request.tokens, dtypes,
                 {{shape.num_local_experts(), "local experts"},
                  {size_t{shape.num_ranks} * shape.max_tokens, "ranks x max_dispatch_tokens_per_rank"},
                  {hidden, "hidden"}});
    check_tensor("outputs.topk_weights", request.out_topk_weights, {ncclFloat32},
                 {{routing_.num_tokens, "tokens of topk_idx"}, {routing_.num_topk, "num_topk of the handle"}});
  } else {
    check_tensor("inputs.tokens", request.tokens, dtypes,
                 {{shape.num_ranks, "ranks"}, {shape.max_tokens, "max_dispatch_tokens_per_rank"}, {hidden, "hidden"}});
  }
  check_tensor("outputs.tokens", request.out_tokens, {request.tokens->datatype},
               {{routing_.num_tokens, "tokens of topk_idx"}, {hidden, "hidden of inputs.tokens"}});
  const uint64_t row_bytes = row_bytes_of("inputs.tokens", *request.tokens, group_.config().max_token_bytes);

  const plan::LlPlan plan = plan::plan_ll_combine(shape, static_cast<Layout>(layout_), row_bytes, routing_.num_tokens,
                                                  group_.ll_limits(), group_.ll_tuning());
  const auto dtype = static_cast<uint32_t>(dtype_of(request.tokens->datatype));
  LlOperation<LlCombineArgs> operation{group_.ll_kernels().combine[!expert_major][dtype], plan.launch, {}};
  runtime::Communicator& comm = group_.comm();
  LlCombineArgs& args = operation.args;
  args.group = group_.ll_state();
  args.routing = routing_;
  args.rows = plan.rows;
  args.push_warps = plan.push_warps;
  args.tokens = static_cast<const unsigned char*>(address_of("inputs.tokens", *request.tokens, comm, 16));
  args.out_tokens = static_cast<unsigned char*>(address_of("outputs.tokens", *request.out_tokens, comm, 16));
  if (expert_major) {
    args.topk_weights =
        static_cast<const float*>(address_of("outputs.topk_weights", *request.out_topk_weights, comm, 4));
  }
  return operation;
}

}  // namespace nccl_ep::core

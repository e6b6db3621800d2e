// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch on the host: check, plan, fill the arguments.
#include "core/ht_handle.hpp"
#include "core/recipes.hpp"

namespace nccl_ep::core {
namespace {

struct Sizes {
  size_t tokens, topk;
  Extent rows;  // of the outputs
};

void check_recipe(const DispatchRequest& request) {
  if (request.recipe == NCCL_EP_DISP_QUANT_DS_FP8E3M4) {
    refuse(ncclInvalidArgument, "config.quant_recipe",
           "is NCCL_EP_DISP_QUANT_DS_FP8E3M4 (2), which High Throughput does not have; expected "
           "NCCL_EP_DISP_QUANT_NONE (0)");
  }
  if (request.recipe != NCCL_EP_DISP_QUANT_NONE) {
    refuse(ncclInvalidUsage, "config.quant_recipe",
           "is " + std::to_string(static_cast<int>(request.recipe)) +
               ", expected NCCL_EP_DISP_QUANT_NONE (0): recipes are not available in this version");
  }
}

// What the forward pass carries beside the rows.
void check_weights(const DispatchRequest& request, bool is_expert_major, const Sizes& sizes) {
  check_tensor(kWeights, request.topk_weights, {ncclFloat32},
               {{sizes.tokens, "tokens of topk_idx"}, {sizes.topk, "num_topk of the handle"}});
  if (is_expert_major) {
    check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32}, {sizes.rows});
    check_absent(kOutIdx, request.out_topk_idx, "in the expert-major layout a row's place says its expert");
  } else {
    const Extent topk{sizes.topk, "num_topk of the handle"};
    check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32}, {sizes.rows, topk});
    check_tensor(kOutIdx, request.out_topk_idx, {ncclInt64}, {sizes.rows, topk});
  }
}

void check_no_weights(const DispatchRequest& request) {
  const char* why = "the backward pass dispatches rows only";
  check_absent(kWeights, request.topk_weights, why);
  check_absent(kOutWeights, request.out_topk_weights, why);
  check_absent(kOutIdx, request.out_topk_idx, why);
}

}  // namespace

void HtHandle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_routing();
  check_recipe(request);
  const SentRows rows = check_sent_rows(request, num_tokens_, group_.config().max_token_bytes);
  const Sizes sizes{num_tokens_, num_topk(), output_rows(stream)};
  check_tensor(kOutTokens, request.out_tokens, {rows.dtype}, {sizes.rows, {rows.hidden, "hidden of inputs.tokens"}});
  check_received_scales(request, rows, {sizes.rows, rows.scales_extent()});
  const bool is_forward = request.pass_direction == NCCL_EP_FWD_PASS;
  is_forward ? check_weights(request, is_expert_major(), sizes) : check_no_weights(request);
  check_window(kOutTokens, *request.out_tokens, group_.config().zero_copy);

  const PeerWindow out_window = window_of(kOutTokens, *request.out_tokens);
  const plan::HtRowPlan plan = plan::plan_ht_dispatch(layout_, out_window.base != 0, rows.row_bytes(),
                                                      group_.move_limits(layout_), group_.tuning());
  runtime::Communicator& comm = group_.comm();
  const auto address = [&](const char* field, const ncclEpTensor_t* tensor, size_t alignment) {
    return tensor ? address_of(field, *tensor, comm, alignment) : nullptr;
  };
  HtDispatchArgs args{};
  args.group = group_.state();
  args.handle = state_;
  args.move = plan.move;
  args.move.pushed = group_.pushed();
  args.move.num_summed = group_.num_summed();
  args.num_tokens = num_tokens_;
  args.num_topk = num_topk();
  args.tokens = static_cast<const unsigned char*>(address(kTokens, request.tokens, 16));
  args.topk_weights = static_cast<const float*>(address(kWeights, request.topk_weights, 4));
  args.out_window = out_window;
  args.out_tokens = static_cast<unsigned char*>(address(kOutTokens, request.out_tokens, 16));
  args.out_topk_weights = static_cast<float*>(address(kOutWeights, request.out_topk_weights, 4));
  args.out_topk_idx = static_cast<int64_t*>(address(kOutIdx, request.out_topk_idx, 8));
  args.first_expert = request.global_expert_ids ? comm.rank() * group_.shape().num_local_experts() : 0;
  args.network = group_.network();
  args.parcels = {static_cast<uint32_t>(rows.row_bytes()), is_forward ? num_topk() : 0};
  launch(group_.kernels().at(jit::Op::dispatch, layout_), plan.launch, args, stream);
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// High-Throughput dispatch on the host: check, plan, fill the arguments.
#include "core/ht_handle.hpp"

namespace nccl_ep::core {
namespace {

struct Sizes {
  size_t tokens, hidden, topk;
  Extent rows;  // of the outputs
};

void check_recipe(const DispatchRequest& request) {
  if (request.recipe == NCCL_EP_DISP_QUANT_DS_FP8E3M4) {
    refuse(ncclInvalidArgument, "config.quant_recipe",
           "is NCCL_EP_DISP_QUANT_DS_FP8E3M4 (2), which High Throughput does not have; expected "
           "NCCL_EP_DISP_QUANT_NONE (0)");
  }
  check_plain(request);
}

// Where rows arrive that go to this output.
RowPath arrival(Layout layout, const ncclEpTensor_t& out, ncclEpZeroCopyMode_t mode) {
  if (!out.win_hdl) return {NCCL_EP_ROW_PATH_STAGED, "has no window, expected one for rows that senders write here"};
  if (mode == NCCL_EP_ZERO_COPY_OFF) {
    return {NCCL_EP_ROW_PATH_STAGED, "has a window, but config.zero_copy is OFF, expected AUTO or ON"};
  }
  if (layout == Layout::flat) {
    return {NCCL_EP_ROW_PATH_DIRECT, "has a window, and config.zero_copy is not OFF: senders write the rows here"};
  }
  return {NCCL_EP_ROW_PATH_DIRECT,
          "has a window, and config.zero_copy is not OFF: senders write a token's first row here, and this rank copies "
          "its other ones from there"};
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

RowPaths HtGroup::check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const {
  check_recipe(request);
  const size_t hidden = request.tokens && request.tokens->ndim > 1 ? request.tokens->sizes[1] : 0;
  check_tensor(kTokens, request.tokens, {ncclBfloat16, ncclFloat16, ncclFloat32},
               {{num_tokens, "tokens of topk_idx"}, {hidden, "hidden"}});
  row_bytes_of(kTokens, *request.tokens, config().max_token_bytes);
  check_window(kOutTokens, *request.out_tokens, config().zero_copy);
  return {kReadInPlace, {}, arrival(layout, *request.out_tokens, config().zero_copy), {}};
}

void HtHandle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_routing();
  const RowPaths paths = group_.check_rows(layout_, request, num_tokens_);
  const size_t hidden = request.tokens->sizes[1];
  const uint64_t row_bytes = hidden * element_bytes(request.tokens->datatype);
  const Sizes sizes{num_tokens_, hidden, num_topk(), output_rows(stream)};
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {sizes.rows, {hidden, "hidden of inputs.tokens"}});
  const bool is_forward = request.pass_direction == NCCL_EP_FWD_PASS;
  is_forward ? check_weights(request, is_expert_major(), sizes) : check_no_weights(request);

  const PeerWindow out_window =
      paths.out_tokens.is_direct() ? window_of(kOutTokens, *request.out_tokens) : PeerWindow{};
  const plan::HtRowPlan plan =
      plan::plan_ht_dispatch(layout_, out_window.base != 0, row_bytes, group_.move_limits(layout_), group_.tuning());
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
  args.parcels = {static_cast<uint32_t>(row_bytes), is_forward ? num_topk() : 0};
  launch(group_.kernels().at(jit::Op::dispatch, layout_), plan.launch, args, stream);
}

}  // namespace nccl_ep::core

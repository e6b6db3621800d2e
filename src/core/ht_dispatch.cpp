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

// Senders push scales where they push rows.
void check_windows(const DispatchRequest& request, ncclEpZeroCopyMode_t mode) {
  check_window(kOutTokens, *request.out_tokens, mode);
  if (!request.out_scales || !request.out_tokens->win_hdl == !request.out_scales->win_hdl) return;
  refuse(ncclInvalidArgument, kOutScales,
         request.out_scales->win_hdl ? "has a window, expected none since outputs.tokens has none"
                                     : "has no window, expected one since outputs.tokens has one");
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

// Of the words that a row of scales consists of, if all rows begin at multiples of `alignment`.
uint32_t word_bytes_of(uint64_t row_bytes, uint64_t alignment) {
  for (const uint32_t word : {16, 4}) {
    if (row_bytes % word == 0 && alignment % word == 0) return word;
  }
  return 1;
}

}  // namespace

DispatchRows HtGroup::check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const {
  const ncclEpZeroCopyMode_t mode = config().zero_copy;
  DispatchRows rows{check_sent_rows(request, num_tokens, config().max_token_bytes), {}};
  check_windows(request, mode);
  rows.paths.in_tokens = kReadInPlace;
  rows.paths.out_tokens = arrival(layout, *request.out_tokens, mode);
  if (request.scales) rows.paths.in_scales = kReadInPlace;
  if (request.out_scales) rows.paths.out_scales = arrival(layout, *request.out_scales, mode);
  return rows;
}

HtScales HtHandle::scales_of(const DispatchRequest& request, const DispatchRows& rows) {
  const SentRows& sent = rows.sent;
  if (sent.num_scales == 0) return {};
  constexpr uint64_t kMostInBulk = 7168;  // leaves room for rows
  runtime::Communicator& comm = group_.comm();
  const size_t alignment = sent.quantizes ? sizeof(float) : 16;
  HtScales scales{};
  scales.row_bytes = static_cast<uint32_t>(sent.scale_bytes());
  if (request.scales) {
    scales.given = static_cast<const unsigned char*>(address_of(kScales, *request.scales, comm, alignment));
  }
  scales.out_window = window_of(kOutScales, *request.out_scales, rows.paths.out_scales, alignment);
  scales.out = static_cast<unsigned char*>(address_of(kOutScales, *request.out_scales, comm, alignment));
  scales.word_bytes = word_bytes_of(scales.row_bytes, reinterpret_cast<uintptr_t>(scales.out));
  const bool in_bulk = scales.word_bytes == 16 && scales.row_bytes <= kMostInBulk;
  const bool go_apart = layout_ == Layout::flat && scales.out_window.base != 0 && !group_.shape().has_other_teams();
  scales.go = go_apart ? ScalesGo::apart : in_bulk ? ScalesGo::in_stages : ScalesGo::by_lanes;
  return scales;
}

void HtHandle::dispatch(const DispatchRequest& request, cudaStream_t stream) {
  group_.throw_if_faulted();
  require_routing();
  require_ranks("ncclEpUpdateHandle", stream);
  const DispatchRows rows = group_.check_rows(layout_, request, num_tokens_);
  const SentRows& sent = rows.sent;
  const Sizes sizes{num_tokens_, num_topk(), output_rows(stream)};
  check_tensor(kOutTokens, request.out_tokens, {sent.dtype}, {sizes.rows, sent.hidden_extent()});
  check_received_scales(request, sent,
                        {{request.out_tokens->sizes[0], "rows of outputs.tokens"}, sent.scales_extent()});
  const bool is_forward = request.pass_direction == NCCL_EP_FWD_PASS;
  is_forward ? check_weights(request, is_expert_major(), sizes) : check_no_weights(request);

  const PeerWindow out_window = window_of(kOutTokens, *request.out_tokens, rows.paths.out_tokens, 16);
  const HtScales scales = scales_of(request, rows);
  const plan::HtRow row{sent.row_bytes(), scales.go == ScalesGo::in_stages ? scales.row_bytes : 0};
  const plan::HtRowPlan plan = plan::plan_ht_dispatch(layout_, out_window.base != 0, row,
                                                      group_.move_limits(layout_, sent.quantizes), group_.tuning());
  runtime::Communicator& comm = group_.comm();
  const auto address = [&](const char* field, const ncclEpTensor_t* tensor, size_t alignment) {
    return tensor ? address_of(field, *tensor, comm, alignment) : nullptr;
  };
  HtDispatchArgs args{};
  args.group = group_.state();
  args.handle = state_;
  args.move = plan.move;
  args.move.pushed = group_.pushed();
  args.move.num_begun = group_.num_begun();
  args.num_topk = num_topk();
  args.tokens = static_cast<const unsigned char*>(address(kTokens, request.tokens, 16));
  args.topk_weights = static_cast<const float*>(address(kWeights, request.topk_weights, 4));
  args.out_window = out_window;
  args.out_tokens = static_cast<unsigned char*>(address(kOutTokens, request.out_tokens, 16));
  args.out_topk_weights = static_cast<float*>(address(kOutWeights, request.out_topk_weights, 4));
  args.out_topk_idx = static_cast<int64_t*>(address(kOutIdx, request.out_topk_idx, 8));
  args.first_expert = request.global_expert_ids ? comm.rank() * group_.shape().num_local_experts() : 0;
  args.scales = scales;
  if (sent.quantizes) args.quantization = {args.tokens, request.round_scales, group_.tokens_ready()};
  args.network = group_.network();
  args.parcels = {static_cast<uint32_t>(align_up(sent.row_bytes() + sent.scale_bytes(), 16)),
                  is_forward ? num_topk() : 0};
  launch(group_.kernels().at(jit::Op::dispatch, layout_, DType::bf16, sent.num_scales > 0), plan.launch, args, stream);
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch on the host: check, plan, fill the arguments.
#include "core/ll_handle.hpp"
#include "core/recipes.hpp"

namespace nccl_ep::core {
namespace {

struct Sizes {
  SentRows sent;
  Extent tokens, topk;
  LlGroup::Zones zones;
};

void check_counters(const DispatchRequest& request) {
  check_absent(kOffsets, request.expert_offsets, "Low Latency does not fill it");
  check_absent(kTotal, request.recv_total_counter, "Low Latency does not fill it");
}

void check_received(const DispatchRequest& request, const Sizes& sizes) {
  const auto& [number, rows] = sizes.zones;
  check_tensor(kOutTokens, request.out_tokens, {sizes.sent.dtype}, {number, rows, sizes.sent.hidden_extent()});
  check_received_scales(request, sizes.sent, {number, rows, sizes.sent.scales_extent()});
}

void check_expert_major(const DispatchRequest& request, const Sizes& sizes) {
  const char* why = "the expert-major layout delivers rows only";
  check_absent(kWeights, request.topk_weights, "in the expert-major layout combine takes the weights");
  check_absent(kOutWeights, request.out_topk_weights, why);
  check_absent(kOutIdx, request.out_topk_idx, why);
  check_absent(kSourceCounters, request.src_rank_counters, "rows are counted by expert");
  const Extent& experts = sizes.zones.number;
  check_tensor(kExpertCounters, request.expert_counters, {ncclInt32},
               {{experts.value, experts.meaning, Extent::at_least}});
}

void check_rank_major(const DispatchRequest& request, const Sizes& sizes) {
  check_absent(kExpertCounters, request.expert_counters, "rows are counted by source rank");
  const auto& [ranks, rows] = sizes.zones;
  check_tensor(kWeights, request.topk_weights, {ncclFloat32}, {sizes.tokens, sizes.topk});
  const std::initializer_list<Extent> table = {ranks, rows, sizes.topk};
  check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32}, table);
  check_tensor(kOutIdx, request.out_topk_idx, {ncclInt32}, table);
  if (request.src_rank_counters) {
    check_tensor(kSourceCounters, request.src_rank_counters, {ncclInt32},
                 {{ranks.value, ranks.meaning, Extent::at_least}});
  }
}

// What the mode promises is checked though it changes nothing: that tokens or scales that come as they were have a window.
void check_zero_copy(const DispatchRequest& request, ncclEpZeroCopyMode_t mode, Layout layout, const SentRows& rows) {
  if (mode != NCCL_EP_ZERO_COPY_ON) return;
  if (layout != Layout::rank_major) {
    refuse(ncclInvalidArgument, kOutTokens,
           "is expert-major, which has no zero copy; expected config.zero_copy AUTO or OFF");
  }
  if (rows.quantizes) {
    refuse(ncclInvalidArgument, kRecipe,
           "is NCCL_EP_DISP_QUANT_DS_FP8E3M4 (2), which has no zero copy; expected config.zero_copy AUTO or OFF");
  }
  if (!request.out_scales || !request.out_scales->win_hdl) check_window(kOutTokens, *request.out_tokens, mode);
}

LlScales scales_of(const DispatchRequest& request, const SentRows& rows, runtime::Communicator& comm) {
  LlScales scales{};
  scales.from = static_cast<const unsigned char*>(address_of_scales(kScales, request.scales, comm));
  scales.to = static_cast<unsigned char*>(address_of_scales(kOutScales, request.out_scales, comm));
  scales.bytes_per_row = static_cast<uint32_t>(rows.scale_bytes());
  scales.row_packs = static_cast<uint32_t>(rows.row_bytes() / 16);
  scales.quantizes = rows.quantizes;
  scales.rounded = request.round_scales;
  return scales;
}

// Rows travel through the library's own window whatever the mode: docs/ll.md says why.
constexpr RowPath kArrival{
    NCCL_EP_ROW_PATH_STAGED,
    "gets rows of Low Latency, which arrive in the library's window: a window of its own changes "
    "nothing"};

}  // namespace

DispatchRows LlGroup::check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const {
  if (request.pass_direction != NCCL_EP_FWD_PASS) refuse_backward_pass();
  DispatchRows rows{check_sent_rows(request, num_tokens, config().max_token_bytes), {}};
  check_zero_copy(request, config().zero_copy, layout, rows.sent);
  rows.paths.in_tokens = kReadInPlace;
  rows.paths.out_tokens = kArrival;
  if (request.scales) rows.paths.in_scales = kReadInPlace;
  if (request.out_scales) rows.paths.out_scales = kArrival;
  return rows;
}

LlOperation<LlDispatchArgs> LlHandle::prepare(const DispatchRequest& request) {
  const plan::LlShape& shape = group_.shape();
  const Layout layout = layout_;
  check_counters(request);
  const SentRows rows = group_.check_rows(layout, request, routing_.tokens.most).sent;
  const Sizes sizes{rows,
                    {routing_.tokens.most, "tokens of topk_idx"},
                    {routing_.num_topk, "num_topk of the handle"},
                    group_.zones(layout)};
  check_received(request, sizes);
  layout == Layout::expert_major ? check_expert_major(request, sizes) : check_rank_major(request, sizes);

  const plan::LlRow row{rows.sent_bytes(), routing_.num_topk, rows.quantizes};
  const plan::LlPlan plan =
      plan::plan_ll_dispatch(shape, layout, row, routing_.tokens.most, group_.launch_limits(), group_.tuning());
  LlOperation<LlDispatchArgs> operation{
      group_.kernels().at(jit::Op::dispatch, layout, DType::bf16, rows.num_scales > 0), plan.launch, {}};
  runtime::Communicator& comm = group_.comm();
  LlDispatchArgs& args = operation.args;
  args.group = group_.state();
  args.network = group_.network();
  args.routing = routing_;
  args.rows = plan.rows;
  args.push_warps = plan.push_warps;
  args.experts_per_pass = plan.experts_per_pass;
  args.global_expert_ids = request.global_expert_ids;
  args.tokens = static_cast<const unsigned char*>(address_of(kTokens, *request.tokens, comm, 16));
  args.out_tokens = static_cast<unsigned char*>(address_of(kOutTokens, *request.out_tokens, comm, 16));
  const auto address = [&](const char* field, const ncclEpTensor_t* tensor) {
    return tensor ? address_of(field, *tensor, comm, 4) : nullptr;
  };
  args.topk_weights = static_cast<const float*>(address(kWeights, request.topk_weights));
  args.out_topk_weights = static_cast<float*>(address(kOutWeights, request.out_topk_weights));
  args.out_topk_idx = static_cast<int32_t*>(address(kOutIdx, request.out_topk_idx));
  args.expert_counters = static_cast<int32_t*>(address(kExpertCounters, request.expert_counters));
  args.src_rank_counters = static_cast<int32_t*>(address(kSourceCounters, request.src_rank_counters));
  args.scales = scales_of(request, rows, comm);
  return operation;
}

}  // namespace nccl_ep::core

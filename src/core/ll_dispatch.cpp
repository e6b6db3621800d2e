// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch on the host: check, plan, fill the arguments.
#include "core/checks.hpp"
#include "core/ll_handle.hpp"

namespace nccl_ep::core {
namespace {

constexpr const char* kRanksTimesTokens = "ranks x max_dispatch_tokens_per_rank";

struct Sizes {
  size_t tokens, hidden, topk, ranks, max_tokens, local_experts;
};

void check_counters(const DispatchRequest& request) {
  check_absent(kOffsets, request.expert_offsets, "Low Latency does not fill it");
  check_absent(kTotal, request.recv_total_counter, "Low Latency does not fill it");
}

void check_expert_major(const DispatchRequest& request, const Sizes& sizes) {
  const char* why = "the expert-major layout delivers rows only";
  check_absent(kWeights, request.topk_weights, "in the expert-major layout combine takes the weights");
  check_absent(kOutWeights, request.out_topk_weights, why);
  check_absent(kOutIdx, request.out_topk_idx, why);
  check_absent(kSourceCounters, request.src_rank_counters, "rows are counted by expert");
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{sizes.local_experts, "local experts"},
                {sizes.ranks * sizes.max_tokens, kRanksTimesTokens},
                {sizes.hidden, "hidden of inputs.tokens"}});
  check_tensor(kExpertCounters, request.expert_counters, {ncclInt32},
               {{sizes.local_experts, "local experts", Extent::at_least}});
}

void check_rank_major(const DispatchRequest& request, const Sizes& sizes) {
  check_absent(kExpertCounters, request.expert_counters, "rows are counted by source rank");
  check_tensor(kWeights, request.topk_weights, {ncclFloat32},
               {{sizes.tokens, "tokens of topk_idx"}, {sizes.topk, "num_topk of the handle"}});
  check_tensor(kOutTokens, request.out_tokens, {request.tokens->datatype},
               {{sizes.ranks, "ranks"},
                {sizes.max_tokens, "max_dispatch_tokens_per_rank"},
                {sizes.hidden, "hidden of inputs.tokens"}});
  const std::initializer_list<Extent> table = {{sizes.ranks, "ranks"},
                                               {sizes.max_tokens, "max_dispatch_tokens_per_rank"},
                                               {sizes.topk, "num_topk of the handle"}};
  check_tensor(kOutWeights, request.out_topk_weights, {ncclFloat32}, table);
  check_tensor(kOutIdx, request.out_topk_idx, {ncclInt32}, table);
  if (request.src_rank_counters) {
    check_tensor(kSourceCounters, request.src_rank_counters, {ncclInt32}, {{sizes.ranks, "ranks", Extent::at_least}});
  }
}

// What the mode promises is checked though it changes nothing.
void check_zero_copy(ncclEpZeroCopyMode_t mode, Layout layout, const ncclEpTensor_t& out_tokens) {
  if (mode == NCCL_EP_ZERO_COPY_ON && layout != Layout::rank_major) {
    refuse(ncclInvalidArgument, kOutTokens,
           "is expert-major, which has no zero copy; expected config.zero_copy AUTO or OFF");
  }
  check_window(kOutTokens, out_tokens, mode);
}

// Rows travel through the library's own window whatever the mode: docs/ll.md says why.
constexpr RowPath kArrival{
    NCCL_EP_ROW_PATH_STAGED,
    "gets rows of Low Latency, which arrive in the library's window: a window of its own changes "
    "nothing"};

}  // namespace

RowPaths LlGroup::check_rows(Layout layout, const DispatchRequest& request, size_t num_tokens) const {
  if (request.pass_direction != NCCL_EP_FWD_PASS) refuse_backward_pass();
  check_plain(request);
  const size_t hidden = request.tokens && request.tokens->ndim > 1 ? request.tokens->sizes[1] : 0;
  check_tensor(kTokens, request.tokens, {ncclBfloat16, ncclFloat16, ncclFloat32},
               {{num_tokens, "tokens of topk_idx"}, {hidden, "hidden"}});
  row_bytes_of(kTokens, *request.tokens, config().max_token_bytes);
  check_zero_copy(config().zero_copy, layout, *request.out_tokens);
  return {kReadInPlace, {}, kArrival, {}};
}

LlOperation<LlDispatchArgs> LlHandle::prepare(const DispatchRequest& request) {
  const plan::LlShape& shape = group_.shape();
  const Layout layout = layout_;
  check_counters(request);
  group_.check_rows(layout, request, routing_.num_tokens);
  const size_t hidden = request.tokens->sizes[1];
  const uint64_t row_bytes = hidden * element_bytes(request.tokens->datatype);
  const Sizes sizes{routing_.num_tokens, hidden,           routing_.num_topk,
                    shape.num_ranks,     shape.max_tokens, shape.num_local_experts()};
  layout == Layout::expert_major ? check_expert_major(request, sizes) : check_rank_major(request, sizes);

  const plan::LlPlan plan =
      plan::plan_ll_dispatch(shape, layout, row_bytes, routing_.num_tokens, group_.launch_limits(), group_.tuning());
  LlOperation<LlDispatchArgs> operation{group_.kernels().at(jit::Op::dispatch, layout), plan.launch, {}};
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
  return operation;
}

}  // namespace nccl_ep::core

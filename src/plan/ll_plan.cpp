// SPDX-License-Identifier: Apache-2.0
#include "plan/ll_plan.hpp"

#include <cstdio>

#include "plan/tuning.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::plan {
namespace {

constexpr uint32_t kChunksPerBlock = 8;  // with few tokens: more blocks start as fast and share the work
constexpr uint32_t kCollectShare = 3;    // rank-major, where pushing is light, one warp in so many collects meanwhile
constexpr uint32_t kItemsPerWarp = 3;    // of combine, at least, where chunks are taken together

// How many warps push in dispatch.
struct PushWarps {
  uint32_t wanted;  // of all blocks: these keep the links busy (performance-notes.md)
  uint32_t share;   // of a block, one warp in so many at most: the others must keep up
};
constexpr PushWarps kPushWarps{512, 5};
// They quantize each row once for every two ranks.
constexpr PushWarps kQuantizingPushWarps{1280, 2}, kQuantizingPushWarpsOfTwo{768, 4};

PushWarps push_warps(const LlShape& shape, const LlRow& row) {
  if (!row.quantizes) return kPushWarps;
  return shape.num_ranks > 2 ? kQuantizingPushWarps : kQuantizingPushWarpsOfTwo;
}

constexpr size_t kExpertSetBytes = 32 * 1024;  // for the experts of one pass

// As many blocks as there are SMs, but no more than have a few row chunks each; at least one for each rank, since a block
// each sends the routes. All of them must be resident at once. A block needs a warp that pushes and one that receives.
runtime::LaunchShape launch_shape(const LlShape& shape, const LlRowPlan& rows, const Limits& limits,
                                  const LlTuning& tuning, uint32_t kernel_threads) {
  const uint32_t most = std::min(kernel_threads, limits.max_threads_per_block);
  const uint32_t num_threads = std::clamp((tuning.num_threads ? tuning.num_threads : most) / 32 * 32, 64u, most);
  const uint64_t num_items = uint64_t{shape.num_ranks} * shape.max_tokens * rows.num_chunks;
  const uint64_t useful = std::max<uint64_t>(shape.num_ranks, div_up(num_items, kChunksPerBlock));
  return {static_cast<uint32_t>(std::min<uint64_t>(limits.num_sms, useful)), num_threads, 0};
}

// A warp looks up once what it needs to know of the chunks that it takes together, but all warps should get some items.
uint32_t chunks_per_item(const LlShape& shape, const LlPlan& plan, uint32_t num_tokens) {
  const uint64_t num_chunks = uint64_t{shape.num_ranks} * num_tokens * plan.rows.num_chunks;
  const uint64_t num_warps = uint64_t{plan.launch.num_blocks} * plan.launch.num_threads / 32;
  const uint64_t wanted = std::clamp<uint64_t>(num_chunks / (kItemsPerWarp * num_warps), 1, plan.rows.num_chunks);
  return static_cast<uint32_t>(div_up(plan.rows.num_chunks, div_up(plan.rows.num_chunks, wanted)));
}

// The table of arrivals (arrivals.cuh), whose expert-major part may be large.
size_t table_bytes(const LlShape& shape, Layout layout) {
  const size_t num_experts = layout == Layout::expert_major ? shape.num_local_experts() : 0;
  return sizeof(uint32_t) * (2 + 3 * shape.num_ranks + (shape.num_ranks + 1) * num_experts);
}

// What a block needs to collect routes (routes.cuh), beside the experts of a pass.
size_t scratch_bytes(uint32_t num_topk, uint32_t num_tokens) {
  const size_t num_places = size_t{num_tokens} * num_topk;
  return sizeof(uint32_t) * (div_up(num_tokens, 32) + div_up(num_places, 32) + 4);
}

void require_fit(const LlPlan& plan, const LlShape& shape, uint32_t num_topk, uint32_t num_tokens,
                 const Limits& limits) {
  const size_t available = limits.max_dynamic_shared();
  if (plan.launch.shared_bytes <= available) return;
  throw Error(ncclInvalidUsage, "num_experts is " + std::to_string(shape.num_experts) + " on " +
                                    std::to_string(shape.num_ranks) + " ranks, and topk_idx has " +
                                    std::to_string(num_tokens) + " tokens of " + std::to_string(num_topk) +
                                    " experts, which takes " + std::to_string(plan.launch.shared_bytes) +
                                    " bytes of a block's shared memory, expected at most " + std::to_string(available));
}

}  // namespace

LlHandleLayout LlShape::handle_layout(Layout layout, uint32_t num_topk) const {
  const uint32_t max_hits = layout == Layout::expert_major ? std::min(num_topk, num_local_experts()) : 0;
  return {num_ranks, max_tokens, max_hits};
}

uint64_t LlShape::handle_bytes(const LlHandleLayout& handle) const {
  return num_remote_ranks() ? LlRemoteHandleLayout::make(handle, num_remote_ranks()).size() : handle.size();
}

LlPlan plan_ll_dispatch(const LlShape& shape, Layout layout, const LlRow& row, uint32_t num_tokens,
                        const Limits& limits, const LlTuning& tuning) {
  LlPlan plan;
  plan.rows = LlRowPlan::make(row.bytes);
  plan.launch = launch_shape(shape, plan.rows, limits, tuning, ll_dispatch_threads(shape.num_remote_ranks() > 0));
  const uint32_t num_warps = plan.launch.num_threads / 32;
  const PushWarps pushing = push_warps(shape, row);
  const uint32_t wanted = static_cast<uint32_t>(div_up(pushing.wanted, plan.launch.num_blocks));
  plan.push_warps = tuning.push_warps ? std::min(tuning.push_warps, num_warps - 1)
                                      : std::clamp(wanted, 1u, std::max(1u, (num_warps + 1) / pushing.share));
  const size_t set_bytes = sizeof(uint32_t) * div_up(num_tokens, 32);
  plan.launch.shared_bytes = table_bytes(shape, layout) + scratch_bytes(row.num_topk, num_tokens);
  plan.experts_per_pass = 1;
  if (layout == Layout::expert_major) {
    // Three experts share a count unit, so a pass covers a multiple of three.
    const uint32_t all = static_cast<uint32_t>(align_up(shape.num_local_experts(), 3));
    const uint64_t fit = set_bytes ? kExpertSetBytes / set_bytes : all;
    plan.experts_per_pass = static_cast<uint32_t>(std::max<uint64_t>(3, std::min<uint64_t>(all, fit / 3 * 3)));
  }
  plan.launch.shared_bytes += plan.experts_per_pass * (sizeof(uint32_t) + set_bytes);
  require_fit(plan, shape, row.num_topk, num_tokens, limits);
  return plan;
}

LlPlan plan_ll_combine(const LlShape& shape, Layout layout, const LlRowPlan& rows, uint32_t num_tokens,
                       const Limits& limits, const LlTuning& tuning) {
  LlPlan plan;
  plan.rows = rows;
  plan.launch = launch_shape(shape, plan.rows, limits, tuning, ll_combine_threads(shape.num_remote_ranks() > 0));
  const uint32_t num_warps = plan.launch.num_threads / 32;
  plan.push_warps = num_warps - (layout == Layout::rank_major ? std::max(1u, num_warps / kCollectShare) : 1);
  plan.rows.chunks_per_item = chunks_per_item(shape, plan, num_tokens);
  return plan;
}

LlTuning parse_ll_tuning(const char* text) {
  LlTuning tuning;
  parse_tuning("NCCL_EP_LL_TUNING", text, {{"threads", &tuning.num_threads}, {"push_warps", &tuning.push_warps}});
  return tuning;
}

std::string to_string(const LlPlan& plan) {
  char text[256];
  std::snprintf(text, sizeof(text),
                "%u blocks x %u threads, %zu B shared, rows of %u packs in %u chunks, %u warps push, %u experts a pass",
                plan.launch.num_blocks, plan.launch.num_threads, plan.launch.shared_bytes, plan.rows.packs_per_row,
                plan.rows.num_chunks, plan.push_warps, plan.experts_per_pass);
  return text;
}

}  // namespace nccl_ep::plan

// SPDX-License-Identifier: Apache-2.0
#include "plan/ll_plan.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/error.hpp"

namespace nccl_ep::plan {
namespace {

constexpr uint32_t kPacksPerChunk = kLlPacksPerWarp;
constexpr size_t kExpertSetBytes = 32 * 1024;  // for the experts of one pass

LlRowPlan cut_rows(uint64_t row_bytes, uint32_t pinned_chunks) {
  LlRowPlan rows{};
  rows.packs_per_row = static_cast<uint32_t>(row_bytes / 16);
  const uint64_t least = div_up(rows.packs_per_row, LlLayout::kMaxChunks);
  const uint64_t wanted = pinned_chunks ? div_up(rows.packs_per_row, pinned_chunks) : kPacksPerChunk;
  rows.packs_per_chunk = static_cast<uint32_t>(align_up(std::max(wanted, least), 3));
  rows.num_chunks = static_cast<uint32_t>(div_up(rows.packs_per_row, rows.packs_per_chunk));
  return rows;
}

// As many blocks as there are SMs, but no more than give every warp a row chunk; at least one for each rank,
// since a block each sends the routes. All of them must be resident at once.
runtime::LaunchShape launch_shape(const LlShape& shape, const LlRowPlan& rows, const Limits& limits,
                                  const LlTuning& tuning) {
  const uint32_t wanted = tuning.num_threads ? tuning.num_threads : kLlMaxThreads;
  const uint32_t num_threads = std::clamp(wanted / 32 * 32, 32u, std::min(kLlMaxThreads, limits.max_threads_per_block));
  const uint64_t num_items = uint64_t{shape.num_ranks} * shape.max_tokens * rows.num_chunks;
  const uint64_t useful = std::max<uint64_t>(shape.num_ranks, div_up(num_items, num_threads / 32));
  return {static_cast<uint32_t>(std::min<uint64_t>(limits.num_sms, useful)), num_threads, 0};
}

}  // namespace

LlPlan plan_ll_dispatch(const LlShape& shape, Layout layout, uint64_t row_bytes, uint32_t num_tokens,
                        const Limits& limits, const LlTuning& tuning) {
  LlPlan plan;
  plan.rows = cut_rows(row_bytes, tuning.dispatch_chunks);
  plan.launch = launch_shape(shape, plan.rows, limits, tuning);
  const size_t set_bytes = sizeof(uint32_t) * div_up(num_tokens, 32);
  const size_t hit_bytes = 2 * sizeof(uint32_t) * num_tokens;
  plan.launch.shared_bytes = shape.num_ranks * set_bytes + hit_bytes;
  plan.experts_per_pass = 1;
  if (layout == Layout::expert_major) {
    // Three experts share a count unit, so a pass covers a multiple of three.
    const uint32_t all = static_cast<uint32_t>(align_up(shape.num_local_experts(), 3));
    const uint64_t fit = set_bytes ? kExpertSetBytes / set_bytes : all;
    plan.experts_per_pass = static_cast<uint32_t>(std::max<uint64_t>(3, std::min<uint64_t>(all, fit / 3 * 3)));
    plan.launch.shared_bytes += plan.experts_per_pass * set_bytes;
  }
  return plan;
}

LlPlan plan_ll_combine(const LlShape& shape, uint64_t row_bytes, uint32_t num_tokens, const Limits& limits,
                       const LlTuning& tuning) {
  LlPlan plan;
  plan.rows = cut_rows(row_bytes, tuning.combine_chunks);
  plan.launch = launch_shape(shape, plan.rows, limits, tuning);
  plan.launch.shared_bytes = shape.num_ranks * sizeof(uint32_t) * div_up(num_tokens, 32);
  return plan;
}

LlTuning parse_ll_tuning(const char* text) {
  LlTuning tuning;
  const struct {
    const char* name;
    uint32_t LlTuning::* field;
  } kNames[] = {{"threads", &LlTuning::num_threads},
                {"dispatch_chunks", &LlTuning::dispatch_chunks},
                {"combine_chunks", &LlTuning::combine_chunks}};
  for (const char* at = text; at && *at;) {
    const char* comma = std::strchr(at, ',');
    const std::string entry = comma ? std::string(at, comma) : std::string(at);
    const size_t equals = entry.find('=');
    const auto* known = std::find_if(std::begin(kNames), std::end(kNames),
                                     [&](const auto& name) { return entry.substr(0, equals) == name.name; });
    if (equals == std::string::npos || known == std::end(kNames)) {
      throw Error(ncclInvalidUsage,
                  "NCCL_EP_LL_TUNING: '" + entry + "' is not one of threads=, dispatch_chunks=, combine_chunks=");
    }
    tuning.*known->field = static_cast<uint32_t>(std::strtoul(entry.c_str() + equals + 1, nullptr, 10));
    at = comma ? comma + 1 : nullptr;
  }
  return tuning;
}

std::string to_string(const LlPlan& plan) {
  char text[256];
  std::snprintf(text, sizeof(text),
                "%u blocks x %u threads, %zu B shared, rows of %u packs in %u chunks of %u, %u experts a pass",
                plan.launch.num_blocks, plan.launch.num_threads, plan.launch.shared_bytes, plan.rows.packs_per_row,
                plan.rows.num_chunks, plan.rows.packs_per_chunk, plan.experts_per_pass);
  return text;
}

}  // namespace nccl_ep::plan

// SPDX-License-Identifier: Apache-2.0
// Plans of the Low-Latency operations: pure functions from sizes and limits to launch shapes and row cuts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "plan/limits.hpp"
#include "plan/shape.hpp"
#include "runtime/runtime.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::plan {

constexpr uint32_t kLlNetworkContexts = 4;  // rows of one peer have so many ways to go side by side

struct LlShape : Shape {
  uint32_t team_size = 0;  // ranks of an LSA team

  uint32_t num_remote_ranks() const { return num_ranks - team_size; }
  // The window: what the team uses, and behind it what the network uses, if there are remote ranks.
  LlLayout layout() const {
    return LlLayout::make(team_size, max_tokens, num_local_experts(), max_topk, max_row_bytes,
                          exact_combine ? max_topk : 0);
  }
  LlRemoteLayout remote_layout() const {
    const uint32_t rows_back = exact_combine ? std::min(max_topk, num_local_experts()) : 1;
    return LlRemoteLayout::make(layout(), num_remote_ranks(), max_row_bytes, rows_back);
  }
  uint64_t window_bytes() const { return num_remote_ranks() ? remote_layout().size() : layout().size(); }
  // What a handle remembers of the team, and of remote ranks behind it.
  LlHandleLayout handle_layout(Layout layout, uint32_t num_topk) const;
  uint64_t handle_bytes(const LlHandleLayout& handle) const;
};

// Choices that a user may pin (NCCL_EP_LL_TUNING); zero leaves a choice to the plan.
struct LlTuning {
  uint32_t num_threads = 0;
  uint32_t push_warps = 0;  // of a block, in dispatch
};
LlTuning parse_ll_tuning(const char* text);  // "threads=256,push_warps=4"; nullptr is the default

struct LlPlan {
  runtime::LaunchShape launch;
  LlRowPlan rows{};
  uint32_t push_warps = 0;
  uint32_t experts_per_pass = 0;  // dispatch
};

// What dispatch sends of a token.
struct LlRow {
  uint64_t bytes;     // on the way, with its scales
  uint32_t num_topk;  // of the handle
  bool quantizes = false;
};

LlPlan plan_ll_dispatch(const LlShape& shape, Layout layout, const LlRow& row, uint32_t num_tokens,
                        const Limits& limits, const LlTuning& tuning);
LlPlan plan_ll_combine(const LlShape& shape, Layout layout, const LlRowPlan& rows, uint32_t num_tokens,
                       const Limits& limits, const LlTuning& tuning);

// One line for people and golden tests.
std::string to_string(const LlPlan& plan);

}  // namespace nccl_ep::plan

// SPDX-License-Identifier: Apache-2.0
// Plans of the High-Throughput operations: pure functions from sizes and limits to launch shapes and row cuts.
#pragma once

#include <cstdint>
#include <string>

#include "plan/limits.hpp"
#include "plan/shape.hpp"
#include "runtime/runtime.hpp"
#include "shared/ht_args.hpp"

namespace nccl_ep::plan {

struct HtShape : Shape {
  uint32_t team_size = 0;  // ranks of an LSA team
  uint32_t budget = 0;     // rows of an output; 0: as many as there are
  bool drops = false;      // what exceeds the budget
  bool masks = false;      // it goes on without ranks that do not answer

  bool has_other_teams() const { return team_size < num_ranks; }
  uint64_t max_rows() const;  // that a rank may receive, or that are numbered before some are dropped
  // The window: what the team uses, and behind it what the network uses, if there are other teams.
  HtLayout layout() const;
  HtRemoteLayout remote_layout() const;
  uint64_t window_bytes() const;
};

// Choices that a user may pin (NCCL_EP_HT_TUNING); zero leaves a choice to the plan.
struct HtTuning {
  uint32_t tile_tokens = 0;
  uint32_t num_threads = 0;  // of a block, in dispatch and combine
  uint32_t push_blocks = 0;  // of dispatch and combine
  uint32_t push_warps = 0;   // of such a block
  uint32_t piece_bytes = 0;
};
HtTuning parse_ht_tuning(const char* text);  // "push_warps=6,piece_bytes=7168"; nullptr is the default

struct HtUpdatePlan {
  runtime::LaunchShape launch;
  uint32_t tile_tokens = 0;
  uint32_t tiles_per_block = 0;
  uint32_t first_block = 0;  // that has tokens
};
// Throws Error if a block cannot count so many experts.
HtUpdatePlan plan_ht_update(const HtShape& shape, uint32_t num_tokens, const Limits& limits, const HtTuning& tuning);

// Blocks of any update of such a group, at most.
uint32_t max_ht_update_blocks(const HtShape& shape, const Limits& limits);

// Of dispatch and combine. All but `pushed`.
struct HtRowPlan {
  runtime::LaunchShape launch;
  HtMovePlan move{};
};
// What dispatch moves for each token.
struct HtRow {
  uint64_t bytes;
  uint64_t stage_scale_bytes = 0;  // scales that ride in a stage with their row
};
// `into_windows`: rows go straight into the outputs. The splits are measured: docs/performance-notes.md.
HtRowPlan plan_ht_dispatch(Layout layout, bool into_windows, const HtRow& row, const Limits& limits,
                           const HtTuning& tuning);
// Expert-major sums are pushed from registers and need no stages.
HtRowPlan plan_ht_combine(Layout layout, uint64_t row_bytes, const Limits& limits, const HtTuning& tuning);
// With NCCL_EP_COMB_QUANT_FP8: `row_bytes` of bf16. Pieces are what leaves a stage at a time.
HtRowPlan plan_ht_quantized_combine(Layout layout, uint32_t row_bytes, const Limits& limits, const HtTuning& tuning);

// One line for people and golden tests.
std::string to_string(const HtUpdatePlan& plan);
std::string to_string(const HtRowPlan& plan);

}  // namespace nccl_ep::plan

// SPDX-License-Identifier: Apache-2.0
#include "plan/ht_plan.hpp"

#include <algorithm>
#include <cstdio>

#include "plan/tuning.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::plan {
namespace {

constexpr uint32_t kTileTokens = 64;     // more blocks would read more counts of each other
constexpr uint32_t kMinTileTokens = 32;  // one word of bits
constexpr uint32_t kMinPieceBytes = 16;
constexpr uint32_t kOtherWarps = 2;  // of a block, besides those that push: one raises flags, one receives
constexpr uint32_t kMinThreads = 32 * (1 + kOtherWarps);
constexpr uint32_t kTicketBytes = 16 * 1024;  // that a warp pushes before it asks for more
constexpr uint32_t kChunkBytes = 128 * 1024;  // of parcels, that cross the network together
constexpr uint32_t kManyBlocks = 24;          // with fewer, where receiving is much work, all blocks do both

// Who pushes by way of stages.
struct Pushers {
  uint32_t blocks;
  uint32_t warps;        // of such a block
  uint32_t piece_bytes;  // at most; more warps with smaller stages move more
};
constexpr Pushers kPushers{8, 12, 3584};     // 8 blocks fill the links, and more are slower
constexpr Pushers kBusyPushers{8, 6, 7168};  // of blocks whose other warps receive
// Combine that quantizes, of 32 blocks: expert-major sums load more than rows do.
constexpr Pushers kQuantizers{20, 12, 4096};
constexpr Pushers kSumQuantizers{22, 12, 4096};

size_t update_bytes(const HtShape& shape, uint32_t tile_tokens) {
  const HtLayout layout = shape.layout();
  const size_t num_counters = layout.num_all_counters();
  const size_t guests = shape.masks ? layout.num_other_teams() * size_t{layout.team_size} : 0;
  return sizeof(uint32_t) * (2 * num_counters + shape.num_ranks + num_counters * tile_tokens / 32) +
         sizeof(HtOutgoing) * shape.num_ranks + (shape.drops ? sizeof(HtQuota) * shape.num_experts : 0) +
         guests * (sizeof(HtOutgoing) + sizeof(uint32_t) * layout.num_local_experts());
}

// Small enough to keep all SMs busy, large enough for one tile a block, if a block has room for it.
uint32_t tile_tokens(const HtShape& shape, uint32_t num_tokens, const Limits& limits, const HtTuning& tuning) {
  const uint64_t chosen = std::max<uint64_t>(div_up(num_tokens, limits.num_sms), kTileTokens);
  auto tile = static_cast<uint32_t>(align_up(tuning.tile_tokens ? tuning.tile_tokens : chosen, 32));
  while (tile > kMinTileTokens && update_bytes(shape, tile) > limits.max_dynamic_shared()) tile -= 32;
  if (update_bytes(shape, tile) > limits.max_dynamic_shared()) {
    throw Error(ncclInvalidUsage, "num_experts is " + std::to_string(shape.num_experts) + " on " +
                                      std::to_string(shape.num_ranks) + " ranks, which takes " +
                                      std::to_string(update_bytes(shape, tile)) +
                                      " bytes of a block's shared memory, expected at most " +
                                      std::to_string(limits.max_dynamic_shared()));
  }
  return tile;
}

// Equal pieces, but for the last, and of whole lines of memory: parts of lines are slow to write. Scales come on top in any
// stage.
void cut_row(HtMovePlan& move, const HtRow& row, uint32_t max_piece_bytes) {
  constexpr uint64_t kLineBytes = 128;
  const uint64_t even_bytes = div_up(row.bytes, div_up(row.bytes, max_piece_bytes));
  const uint64_t whole_lines = std::min(align_up(even_bytes, kLineBytes), row.bytes);
  move.row_bytes = static_cast<uint32_t>(row.bytes);
  move.piece_bytes = static_cast<uint32_t>(whole_lines <= max_piece_bytes ? whole_lines : align_up(even_bytes, 16));
  move.num_pieces = static_cast<uint32_t>(div_up(row.bytes, move.piece_bytes));
  move.stage_bytes = static_cast<uint32_t>(move.piece_bytes + row.stage_scale_bytes);
}

// Warps of a block that there are stages for.
uint32_t most_pushers(const HtMovePlan& move, const Limits& limits) {
  return static_cast<uint32_t>(limits.max_dynamic_shared() / move.mover_bytes());
}

void require_room(const Limits& limits) {
  constexpr size_t kMinShared = 64 * 1024;
  if (limits.max_threads_per_block >= kMinThreads && limits.max_shared_bytes >= kMinShared) return;
  throw Error(ncclInvalidUsage, "the device has blocks of " + std::to_string(limits.max_threads_per_block) +
                                    " threads and " + std::to_string(limits.max_shared_bytes) +
                                    " bytes of shared memory, expected at least " + std::to_string(kMinThreads) +
                                    " and " + std::to_string(kMinShared));
}

// Of a block.
uint32_t num_move_threads(const Limits& limits, const HtTuning& tuning) {
  const uint32_t most = std::min(kHtMoveThreads, limits.max_threads_per_block);
  return std::clamp(tuning.num_threads ? tuning.num_threads : most, kMinThreads, most) / 32 * 32;
}

// Blocks, threads and pieces.
HtRowPlan cut_rows(const HtRow& row, const Pushers& pushers, const Limits& limits, const HtTuning& tuning) {
  require_room(limits);
  HtRowPlan plan;
  uint32_t max_piece_bytes =
      tuning.piece_bytes ? std::max(tuning.piece_bytes / 16 * 16, kMinPieceBytes) : pushers.piece_bytes;
  for (cut_row(plan.move, row, max_piece_bytes); most_pushers(plan.move, limits) == 0;) {
    max_piece_bytes = max_piece_bytes / 32 * 16;
    cut_row(plan.move, row, max_piece_bytes);
  }
  plan.move.ticket_rows = std::clamp<uint32_t>(kTicketBytes / plan.move.row_bytes, 1, 32);
  plan.launch = {limits.num_sms, num_move_threads(limits, tuning), 0};
  return plan;
}

const Pushers& pushers_of(const Limits& limits, uint32_t min_blocks) {
  return limits.num_sms < min_blocks ? kBusyPushers : kPushers;
}

// Blocks and warps that push, all blocks if there are fewer than `min_blocks`. The other blocks receive.
void deal_pushers(HtRowPlan& plan, uint32_t min_blocks, uint32_t preferred_blocks, const HtTuning& tuning) {
  const uint32_t num_blocks = plan.launch.num_blocks;
  if (num_blocks < min_blocks) preferred_blocks = num_blocks;
  plan.move.push_blocks = std::min(tuning.push_blocks ? tuning.push_blocks : preferred_blocks, num_blocks);
}

// Pushing by way of stages.
void deal_stages(HtRowPlan& plan, const Pushers& pushers, const Limits& limits, const HtTuning& tuning) {
  const uint32_t most = std::min(most_pushers(plan.move, limits), plan.launch.num_threads / 32 - kOtherWarps);
  plan.move.push_warps = std::min(tuning.push_warps ? tuning.push_warps : pushers.warps, most);
  plan.launch.shared_bytes = plan.move.push_warps * plan.move.mover_bytes();
}

// Pushing from registers. Blocks that do nothing else push with all warps but that which raises flags.
void deal_sums(HtRowPlan& plan, const HtTuning& tuning) {
  const uint32_t num_warps = plan.launch.num_threads / 32;
  const bool all_push = plan.move.push_blocks == plan.launch.num_blocks;
  const uint32_t preferred = all_push ? num_warps / 2 : num_warps - 1;
  const uint32_t most = num_warps - (all_push ? kOtherWarps : 1);
  plan.move.push_warps = std::min(tuning.push_warps ? tuning.push_warps : preferred, most);
}

// Pieces of whole blocks, whose numbers leave from stages with their scales.
void cut_quantized_row(HtMovePlan& move, uint32_t row_bytes, uint32_t max_piece_bytes) {
  constexpr uint32_t kBlockBytes = kQuantizedBlock * sizeof(uint16_t);
  const uint64_t num_blocks = div_up(row_bytes, kBlockBytes);
  const uint64_t most = std::max(max_piece_bytes / kBlockBytes, 1u);
  const uint64_t piece_blocks = div_up(num_blocks, div_up(num_blocks, most));
  move.row_bytes = row_bytes;
  move.piece_bytes = static_cast<uint32_t>(piece_blocks * kBlockBytes);
  move.num_pieces = static_cast<uint32_t>(div_up(num_blocks, piece_blocks));
  move.stage_bytes = quantized_bytes(move.piece_bytes / sizeof(uint16_t));
}

// Stages for as many parts as a block has room for.
void deal_parts(HtRowPlan& plan, const Pushers& pushers, const Limits& limits, const HtTuning& tuning) {
  constexpr uint32_t kMinParts = 2;
  HtMovePlan& move = plan.move;
  const auto most_warps = [&](uint32_t num_parts) {
    move.num_parts = num_parts;
    return static_cast<uint32_t>(limits.max_dynamic_shared() / move.sum_mover_bytes());
  };
  const uint32_t num_warps = plan.launch.num_threads / 32;
  const bool all_push = move.push_blocks == plan.launch.num_blocks;
  const uint32_t preferred = all_push ? std::min(pushers.warps, num_warps / 2) : pushers.warps;
  const uint32_t most = std::min(most_warps(kMinParts), num_warps - kOtherWarps);
  move.push_warps = std::min(tuning.push_warps ? tuning.push_warps : preferred, most);
  uint32_t num_parts = kHtMaxSumParts;
  while (most_warps(num_parts) < move.push_warps) --num_parts;
  plan.launch.shared_bytes = move.push_warps * move.sum_mover_bytes();
}

}  // namespace

uint64_t HtShape::max_rows() const {
  const uint64_t all = uint64_t{num_ranks} * max_tokens;
  return budget && !drops ? std::min<uint64_t>(budget, all) : all;
}

HtLayout HtShape::layout() const {
  return HtLayout::make(num_ranks, team_size, num_experts, max_tokens, max_topk, static_cast<uint32_t>(max_rows()),
                        max_row_bytes, exact_combine);
}

HtRemoteLayout HtShape::remote_layout() const {
  const HtLayout window = layout();
  const uint64_t chunk_parcels = std::clamp<uint64_t>(kChunkBytes / window.row_bytes, 1, max_tokens);
  return HtRemoteLayout::make(window, static_cast<uint32_t>(chunk_parcels), masks, drops);
}

uint64_t HtShape::window_bytes() const {
  if (has_other_teams()) return remote_layout().size();
  return masks ? layout().size_with_masks() : layout().size();
}

// As many blocks as there are tiles, or each takes several in a row; and if there is an SM left one more, before them, which deals
// with the other ranks. All of them must be resident at once.
HtUpdatePlan plan_ht_update(const HtShape& shape, uint32_t num_tokens, const Limits& limits, const HtTuning& tuning) {
  HtUpdatePlan plan;
  plan.tile_tokens = tile_tokens(shape, num_tokens, limits, tuning);
  const uint64_t num_tiles = std::max<uint64_t>(1, div_up(num_tokens, plan.tile_tokens));
  plan.tiles_per_block = static_cast<uint32_t>(div_up(num_tiles, limits.num_sms));
  if (std::min<uint64_t>(num_tokens, uint64_t{plan.tiles_per_block} * plan.tile_tokens) > HtLayout::kMaxBlockTokens) {
    throw Error(ncclInvalidUsage, "config.max_dispatch_tokens_per_rank is " + std::to_string(num_tokens) + " on " +
                                      std::to_string(limits.num_sms) + " SMs, expected at most " +
                                      std::to_string(HtLayout::kMaxBlockTokens) + " tokens for each of them");
  }
  const auto num_blocks = static_cast<uint32_t>(div_up(num_tiles, plan.tiles_per_block));
  plan.first_block = num_blocks < limits.num_sms ? 1 : 0;
  plan.launch.num_blocks = num_blocks + plan.first_block;
  plan.launch.num_threads = std::min(kHtUpdateThreads, limits.max_threads_per_block);
  plan.launch.shared_bytes = update_bytes(shape, plan.tile_tokens);
  return plan;
}

uint32_t max_ht_update_blocks(const HtShape& shape, const Limits& limits) {
  const uint64_t num_tiles = std::max<uint64_t>(1, div_up(shape.max_tokens, kMinTileTokens));
  return static_cast<uint32_t>(std::min<uint64_t>(limits.num_sms, num_tiles + 1));
}

HtRowPlan plan_ht_dispatch(Layout layout, bool into_windows, const HtRow& row, const Limits& limits,
                           const HtTuning& tuning) {
  const bool is_flat = layout == Layout::flat;
  const uint32_t min_blocks = !is_flat ? kManyBlocks : into_windows ? kPushers.blocks + 4 : 2 * kPushers.blocks;
  const uint32_t most_blocks = is_flat && !into_windows ? limits.num_sms * 7 / 16 : kPushers.blocks;
  const Pushers& pushers = pushers_of(limits, min_blocks);
  HtRowPlan plan = cut_rows(row, pushers, limits, tuning);
  deal_pushers(plan, min_blocks, std::min(pushers.blocks, most_blocks), tuning);
  deal_stages(plan, pushers, limits, tuning);
  return plan;
}

HtRowPlan plan_ht_combine(Layout layout, uint64_t row_bytes, const Limits& limits, const HtTuning& tuning) {
  const uint32_t min_blocks = layout == Layout::flat ? 2 * kPushers.blocks : kManyBlocks;
  const Pushers& pushers = pushers_of(limits, min_blocks);
  HtRowPlan plan = cut_rows({row_bytes}, pushers, limits, tuning);
  if (layout == Layout::expert_major) {
    deal_pushers(plan, min_blocks, plan.launch.num_blocks * 5 / 8, tuning);
    deal_sums(plan, tuning);
  } else {
    deal_pushers(plan, min_blocks, pushers.blocks, tuning);
    deal_stages(plan, pushers, limits, tuning);
  }
  return plan;
}

HtRowPlan plan_ht_quantized_combine(Layout layout, uint32_t row_bytes, const Limits& limits, const HtTuning& tuning) {
  require_room(limits);
  const Pushers& pushers = layout == Layout::expert_major ? kSumQuantizers : kQuantizers;
  HtRowPlan plan;
  uint32_t max_piece_bytes = tuning.piece_bytes ? tuning.piece_bytes : pushers.piece_bytes;
  const auto is_too_large = [&] { return 4 * plan.move.stage_bytes > limits.max_dynamic_shared(); };
  for (cut_quantized_row(plan.move, row_bytes, max_piece_bytes); is_too_large();) {
    max_piece_bytes /= 2;
    cut_quantized_row(plan.move, row_bytes, max_piece_bytes);
  }
  plan.move.ticket_rows = std::clamp<uint32_t>(kTicketBytes / quantized_bytes(row_bytes / sizeof(uint16_t)), 1, 32);
  plan.launch = {limits.num_sms, num_move_threads(limits, tuning), 0};
  deal_pushers(plan, kManyBlocks, plan.launch.num_blocks * pushers.blocks / 32, tuning);
  deal_parts(plan, pushers, limits, tuning);
  return plan;
}

HtTuning parse_ht_tuning(const char* text) {
  HtTuning tuning;
  parse_tuning("NCCL_EP_HT_TUNING", text,
               {{"tile_tokens", &tuning.tile_tokens},
                {"threads", &tuning.num_threads},
                {"push_blocks", &tuning.push_blocks},
                {"push_warps", &tuning.push_warps},
                {"piece_bytes", &tuning.piece_bytes}});
  return tuning;
}

std::string to_string(const HtUpdatePlan& plan) {
  char text[160];
  std::snprintf(text, sizeof(text), "%u blocks x %u threads, %zu B shared, tiles of %u tokens, %u a block%s",
                plan.launch.num_blocks, plan.launch.num_threads, plan.launch.shared_bytes, plan.tile_tokens,
                plan.tiles_per_block, plan.first_block ? " but the first" : "");
  return text;
}

std::string to_string(const HtRowPlan& plan) {
  char text[160];
  std::snprintf(text, sizeof(text),
                "%u blocks x %u threads, %zu B shared, rows of %u B in %u pieces of %u, %u blocks push with %u warps",
                plan.launch.num_blocks, plan.launch.num_threads, plan.launch.shared_bytes, plan.move.row_bytes,
                plan.move.num_pieces, plan.move.piece_bytes, plan.move.push_blocks, plan.move.push_warps);
  return text;
}

}  // namespace nccl_ep::plan

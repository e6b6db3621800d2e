// SPDX-License-Identifier: Apache-2.0
// Plans of the High-Throughput operations: golden text for known shapes, and invariants for random ones.
#include <doctest/doctest.h>

#include <random>

#include "plan/ht_plan.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::plan;

namespace {

constexpr size_t kShared = 227 * 1024;
constexpr size_t kDynamic = kShared - kMaxStaticSharedBytes;
const Limits kH200{132, 1024, kShared};
const Limits kBudget{16, 1024, kShared};
const Limits kSimulated{4, 128, kShared};

HtShape shape(uint32_t ranks, uint32_t experts, uint32_t tokens, uint32_t budget = 0) {
  return {{ranks, experts, tokens, 8, 14336}, ranks, budget};
}

// What is printed of a plan, without its shared memory, which follows from the rest and the movers' tables.
std::string cuts(const HtRowPlan& plan) {
  const std::string text = to_string(plan);
  const size_t threads = text.find("threads, ") + 9;
  return text.substr(0, threads) + text.substr(text.find("rows of"));
}

class Draw {
 public:
  uint32_t operator()(uint32_t low, uint32_t high) {
    return std::uniform_int_distribution<uint32_t>(low, high)(random_);
  }

  // Every other device is as large as a GPU may be, and every third plan is tuned.
  Limits limits(int i) {
    return i % 2 ? Limits{(*this)(1, 132), 1024, kShared} : Limits{(*this)(1, 8), 32 * (*this)(3, 32), kShared};
  }
  HtTuning tuning(int i, uint32_t most_piece_bytes) {
    if (i % 3) return {};
    return {0, (*this)(0, 2048), (*this)(0, 140), (*this)(0, 20), (*this)(0, most_piece_bytes)};
  }
  Layout layout() { return (*this)(0, 1) ? Layout::flat : Layout::expert_major; }

 private:
  std::mt19937 random_{20931};
};

// It stays within every limit, every role has a warp, and pieces cover the row.
void check_row_plan(const HtRowPlan& plan, const Limits& limits, uint64_t row_bytes) {
  const HtMovePlan& move = plan.move;
  CAPTURE(to_string(plan));
  CHECK(plan.launch.num_blocks == limits.num_sms);
  CHECK(plan.launch.num_threads % 32 == 0);
  CHECK(plan.launch.num_threads <= std::min(kHtMoveThreads, limits.max_threads_per_block));
  CHECK(plan.launch.shared_bytes <= kDynamic);
  CHECK(move.push_blocks >= 1);
  CHECK(move.push_blocks <= plan.launch.num_blocks);
  CHECK(move.push_warps >= 1);
  const uint32_t other_warps = move.push_blocks == plan.launch.num_blocks ? 2 : 1;
  CHECK(32 * (move.push_warps + other_warps) <= plan.launch.num_threads);
  CHECK(move.ticket_rows >= 1);
  CHECK(move.ticket_rows <= 32);
  CHECK(move.piece_bytes % 16 == 0);
  CHECK(uint64_t{move.num_pieces} * move.piece_bytes >= row_bytes);
  CHECK(uint64_t{move.num_pieces - 1} * move.piece_bytes < row_bytes);
}

}  // namespace

TEST_CASE("plan_ht: known updates") {
  const HtShape four = shape(4, 256, 4096);
  CHECK(to_string(plan_ht_update(four, 4096, kH200, {})) ==
        "65 blocks x 512 threads, 4224 B shared, tiles of 64 tokens, 1 a block but the first");
  CHECK(to_string(plan_ht_update(four, 0, kH200, {})) ==
        "2 blocks x 512 threads, 4224 B shared, tiles of 64 tokens, 1 a block but the first");
  CHECK(to_string(plan_ht_update(four, 4096, {4, 1024, kShared}, {})) ==
        "4 blocks x 512 threads, 35424 B shared, tiles of 1024 tokens, 1 a block");
  CHECK(to_string(plan_ht_update(shape(4, 256, 65536), 65536, kH200, {})) ==
        "129 blocks x 512 threads, 18784 B shared, tiles of 512 tokens, 1 a block but the first");
  CHECK(to_string(plan_ht_update(shape(64, 16384, 65536), 65536, kH200, {})) ==
        "129 blocks x 512 threads, 198400 B shared, tiles of 32 tokens, 16 a block but the first");
  // Two counts of a block share a word.
  CHECK_NOTHROW(plan_ht_update(shape(4, 256, 65535), 65535, {1, 1024, kShared}, {}));
  CHECK_THROWS_WITH_AS(
      plan_ht_update(shape(4, 256, 65536), 65536, {1, 1024, kShared}, {}),
      "config.max_dispatch_tokens_per_rank is 65536 on 1 SMs, expected at most 65535 tokens for each of "
      "them",
      Error);
}

TEST_CASE("plan_ht: known dispatches") {
  CHECK(cuts(plan_ht_dispatch(Layout::flat, true, {14336}, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 14336 B in 4 pieces of 3584, 8 blocks push with 12 warps");
  CHECK(cuts(plan_ht_dispatch(Layout::flat, false, {7168}, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 7168 B in 2 pieces of 3584, 7 blocks push with 12 warps");
  CHECK_MESSAGE(cuts(plan_ht_dispatch(Layout::flat, true, {5760}, kBudget, {})) ==
                    "16 blocks x 512 threads, rows of 5760 B in 2 pieces of 2944, 8 blocks push with 12 warps",
                "pieces are whole lines");
  CHECK(cuts(plan_ht_dispatch(Layout::expert_major, true, {28672}, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 28672 B in 4 pieces of 7168, 16 blocks push with 6 warps");
  CHECK(cuts(plan_ht_dispatch(Layout::flat, true, {64}, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 64 B in 1 pieces of 64, 8 blocks push with 12 warps");
  CHECK(cuts(plan_ht_dispatch(Layout::flat, true, {64}, kSimulated, {})) ==
        "4 blocks x 128 threads, rows of 64 B in 1 pieces of 64, 4 blocks push with 2 warps");
}

TEST_CASE("plan_ht: known combines") {
  CHECK(cuts(plan_ht_combine(Layout::flat, 14336, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 14336 B in 4 pieces of 3584, 8 blocks push with 12 warps");
  CHECK(cuts(plan_ht_combine(Layout::flat, 64, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 64 B in 1 pieces of 64, 8 blocks push with 12 warps");
  CHECK(cuts(plan_ht_combine(Layout::expert_major, 14336, kBudget, {})) ==
        "16 blocks x 512 threads, rows of 14336 B in 2 pieces of 7168, 16 blocks push with 8 warps");
  CHECK(cuts(plan_ht_combine(Layout::expert_major, 14336, {32, 1024, kShared}, {})) ==
        "32 blocks x 512 threads, rows of 14336 B in 4 pieces of 3584, 20 blocks push with 15 warps");
}

TEST_CASE("plan_ht: known combines that quantize") {
  const auto plan = [](Layout layout, uint32_t row_bytes, const Limits& limits) {
    const HtRowPlan plan = plan_ht_quantized_combine(layout, row_bytes, limits, {});
    return cuts(plan) + ", " + std::to_string(plan.move.num_parts) + " parts";
  };
  const Limits wide{32, 1024, kShared};
  CHECK(plan(Layout::flat, 14336, wide) ==
        "32 blocks x 512 threads, rows of 14336 B in 4 pieces of 4096, 20 blocks push with 12 warps, 5 parts");
  CHECK(plan(Layout::expert_major, 14336, wide) ==
        "32 blocks x 512 threads, rows of 14336 B in 4 pieces of 4096, 22 blocks push with 12 warps, 5 parts");
  CHECK(plan(Layout::flat, 14336, kBudget) ==
        "16 blocks x 512 threads, rows of 14336 B in 4 pieces of 4096, 16 blocks push with 8 warps, 10 parts");
  CHECK(plan(Layout::flat, 256, kSimulated) ==
        "4 blocks x 128 threads, rows of 256 B in 1 pieces of 4096, 4 blocks push with 2 warps, 16 parts");
}

TEST_CASE("plan_ht: random updates stay within every limit and cover all tokens") {
  Draw draw;
  for (int i = 0; i < 2000; ++i) {
    const Limits limits = i % 2 ? Limits{draw(1, 132), 1024, kShared} : kSimulated;
    const uint32_t ranks = draw(1, 72);
    const HtShape random_shape = shape(ranks, ranks * draw(1, 128), draw(1, 65535));
    const uint32_t num_tokens = draw(0, random_shape.max_tokens);
    const HtTuning tuning{draw(0, 300)};
    const HtUpdatePlan plan = plan_ht_update(random_shape, num_tokens, limits, tuning);
    CHECK(plan.launch.num_blocks >= 1);
    CHECK(plan.launch.num_blocks <= limits.num_sms);
    CHECK(plan.launch.num_threads <= limits.max_threads_per_block);
    CHECK(plan.tile_tokens % 32 == 0);
    CHECK(uint64_t{plan.launch.num_blocks} * plan.tiles_per_block * plan.tile_tokens >= num_tokens);
    const size_t counters = random_shape.layout().num_counters();
    CHECK(plan.launch.shared_bytes == 4 * (2 * counters + 4 * ranks + counters * plan.tile_tokens / 32));
    CHECK(plan.launch.shared_bytes <= kDynamic);
    CHECK(plan.launch.num_blocks <= max_ht_update_blocks(random_shape, limits));
  }
}

TEST_CASE("plan_ht: random rows stay within every limit, and every role has a warp") {
  Draw draw;
  for (int i = 0; i < 2000; ++i) {
    const Limits limits = draw.limits(i);
    const uint64_t row_bytes = 16 * draw(1, 8192);
    const HtTuning tuning = draw.tuning(i, 40000);
    const Layout layout = draw.layout();
    const HtRow row{row_bytes, i % 4 ? 0 : 16 * draw(1, 448)};
    const HtRowPlan dispatch = plan_ht_dispatch(layout, draw(0, 1), row, limits, tuning);
    check_row_plan(dispatch, limits, row_bytes);
    CHECK(dispatch.move.stage_bytes == dispatch.move.piece_bytes + row.stage_scale_bytes);
    CHECK(dispatch.launch.shared_bytes == dispatch.move.push_warps * dispatch.move.mover_bytes());
    const HtRowPlan combine = plan_ht_combine(layout, row_bytes, limits, tuning);
    check_row_plan(combine, limits, row_bytes);
    const bool has_stages = layout == Layout::flat;
    CHECK(combine.launch.shared_bytes == (has_stages ? combine.move.push_warps * combine.move.mover_bytes() : 0));
  }
}

TEST_CASE("plan_ht: random combines that quantize stay within every limit, in pieces of whole parts") {
  Draw draw;
  for (int i = 0; i < 2000; ++i) {
    const Limits limits = draw.limits(i);
    const uint32_t row_bytes = 256 * draw(1, 512);
    const HtTuning tuning = draw.tuning(i, 400000);
    const HtRowPlan plan = plan_ht_quantized_combine(draw.layout(), row_bytes, limits, tuning);
    const HtMovePlan& move = plan.move;
    check_row_plan(plan, limits, row_bytes);
    CAPTURE(to_string(plan));
    CHECK(32 * (move.push_warps + 2) <= plan.launch.num_threads);
    CHECK(move.num_parts >= 2);
    CHECK(plan.launch.shared_bytes == move.push_warps * move.sum_mover_bytes());
    CHECK(move.piece_bytes % kHtSumPartBytes == 0);
    CHECK(move.stage_bytes == quantized_bytes(move.piece_bytes / 2));
    CHECK(quantized_bytes(row_bytes / 2) <= row_bytes);
  }
}

TEST_CASE("plan_ht: a device that is too small is refused") {
  CHECK_THROWS_WITH_AS(plan_ht_dispatch(Layout::flat, true, {64}, {4, 64, kShared}, {}),
                       doctest::Contains("blocks of 64 threads"), Error);
}

TEST_CASE("plan_ht: a budget bounds the rows, and with them the window") {
  CHECK(shape(4, 256, 4096).max_rows() == 4 * 4096);
  CHECK(shape(4, 256, 4096, 5000).max_rows() == 5000);
  CHECK(shape(4, 256, 4096, 1 << 30).max_rows() == 4 * 4096);
  HtShape drops = shape(4, 256, 4096, 5000);
  drops.drops = true;
  CHECK_MESSAGE(drops.max_rows() == 4 * 4096, "rows are numbered before some are dropped");
  CHECK(shape(8, 256, 64, 64).layout().size() < shape(8, 256, 64).layout().size());
}

TEST_CASE("plan_ht: more experts than shared memory can count are refused by name") {
  CHECK_THROWS_WITH_AS(plan_ht_update(shape(2, 1 << 16, 8), 8, kH200, {}), doctest::Contains("num_experts is 65536"),
                       Error);
}

TEST_CASE("plan_ht: tuning is parsed, and a wrong name is refused") {
  const HtTuning tuning = parse_ht_tuning("tile_tokens=32,push_warps=4");
  CHECK(tuning.tile_tokens == 32);
  CHECK(tuning.push_warps == 4);
  CHECK(parse_ht_tuning(nullptr).piece_bytes == 0);
  CHECK_THROWS_WITH_AS(parse_ht_tuning("colour=3"), doctest::Contains("NCCL_EP_HT_TUNING: 'colour=3'"), Error);
  for (const char* value : {"", "x", "4x", "-1", "+4", " 4", "4294967296"}) {
    const std::string entry = std::string("push_warps=") + value;
    CHECK_THROWS_WITH_AS(parse_ht_tuning(entry.c_str()),
                         doctest::Contains(("'" + entry + "', expected a number").c_str()), Error);
  }
}

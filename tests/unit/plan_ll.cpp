// SPDX-License-Identifier: Apache-2.0
// Plans of the Low-Latency operations: golden text for known shapes, and invariants for random ones.
#include <doctest/doctest.h>

#include <random>

#include "plan/ll_plan.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::plan;

namespace {

constexpr size_t kShared = 227 * 1024;
const Limits kH200{132, 1024, kShared};
const Limits kSimulated{4, 128, kShared};

LlShape shape(uint32_t ranks, uint32_t experts, uint32_t tokens, uint64_t row_bytes) {
  return {{ranks, experts, tokens, 8, row_bytes}, ranks};
}

void check(const LlPlan& plan, uint64_t row_bytes, const Limits& limits) {
  CHECK(plan.launch.num_blocks >= 1);
  CHECK(plan.launch.num_blocks <= limits.num_sms);
  CHECK(plan.launch.num_threads % 32 == 0);
  CHECK(plan.launch.num_threads <= limits.max_threads_per_block);
  CHECK(plan.launch.shared_bytes + 20 * 1024 <= limits.max_shared_bytes);
  CHECK(plan.rows.packs_per_row * 16 == row_bytes);
  CHECK(plan.rows.num_chunks * LlRowPlan::kStripsPerChunk * kPacksPerStrip >= plan.rows.packs_per_row);
  CHECK((plan.rows.num_chunks - 1) * LlRowPlan::kStripsPerChunk * kPacksPerStrip < plan.rows.packs_per_row);
}

}  // namespace

TEST_CASE("plan_ll: random shapes stay within every limit") {
  std::mt19937 random(20931);
  const auto draw = [&](uint32_t low, uint32_t high) {
    return std::uniform_int_distribution<uint32_t>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    const Limits limits = i % 2 ? Limits{draw(1, 132), 1024, kShared} : kSimulated;
    const uint32_t ranks = draw(1, 72);
    const uint64_t row_bytes = 16 * draw(1, 4096);
    const LlShape random_shape = shape(ranks, ranks * draw(1, 256), draw(1, 1024), row_bytes);
    const uint32_t num_tokens = draw(0, random_shape.max_tokens);
    for (const Layout layout : {Layout::expert_major, Layout::rank_major}) {
      const LlPlan dispatch = plan_ll_dispatch(random_shape, layout, {row_bytes, 8, i % 4 < 2}, num_tokens, limits, {});
      check(dispatch, row_bytes, limits);
      CHECK(dispatch.experts_per_pass >= 1);
      CHECK(dispatch.push_warps >= 1);
      CHECK(dispatch.push_warps < dispatch.launch.num_threads / 32);
      if (layout == Layout::expert_major) CHECK(dispatch.experts_per_pass % 3 == 0);
      const LlPlan combine = plan_ll_combine(random_shape, layout, LlRowPlan::make(row_bytes), num_tokens, limits, {});
      check(combine, row_bytes, limits);
      CHECK(combine.push_warps >= 1);
      CHECK(combine.push_warps < combine.launch.num_threads / 32);
      CHECK(combine.rows.chunks_per_item >= 1);
      CHECK(combine.rows.chunks_per_item <= combine.rows.num_chunks);
    }
  }
}

TEST_CASE("plan_ll: more experts than shared memory can count are refused by name") {
  CHECK_THROWS_WITH_AS(plan_ll_dispatch(shape(2, 1 << 16, 8, 64), Layout::expert_major, {64, 8}, 8, kH200, {}),
                       doctest::Contains("num_experts is 65536"), Error);
}

TEST_CASE("plan_ll: as many tokens as shared memory can count with the handle's top-k, however large the group's") {
  const LlShape wide = shape(2, 64, 1 << 16, 64);
  CHECK_NOTHROW(plan_ll_dispatch(wide, Layout::expert_major, {64, 8}, 40'000, kH200, {}));
  CHECK_THROWS_WITH_AS(plan_ll_dispatch(wide, Layout::expert_major, {64, 64}, 40'000, kH200, {}),
                       doctest::Contains("topk_idx has 40000 tokens of 64 experts"), Error);
}

TEST_CASE("plan_ll: tuning is parsed, and a wrong name is refused") {
  const LlTuning tuning = parse_ll_tuning("threads=256,push_warps=2");
  CHECK(tuning.num_threads == 256);
  CHECK(tuning.push_warps == 2);
  CHECK(parse_ll_tuning(nullptr).num_threads == 0);
  CHECK_THROWS_WITH_AS(parse_ll_tuning("colour=3"), doctest::Contains("colour=3"), Error);
}

TEST_CASE("plan_ll: rows that travel as NVFP4 fit where rows as they are would") {
  for (uint32_t number_packs = 1; number_packs <= 1024; ++number_packs) {
    const LlRowPlan plain = LlRowPlan::make(uint64_t{number_packs} * 64);
    const LlRowPlan rows = LlRowPlan::make_nvfp4(2 * number_packs);
    const LlLayout layout = LlLayout::make(1, 1, 1, 1, plain.row_bytes());
    CAPTURE(number_packs);
    CHECK(rows.num_chunks == (number_packs + 26) / 27);
    CHECK(rows.packs_per_row == number_packs + 4 * rows.num_chunks);
    CHECK(rows.packs_per_row <= rows.num_chunks * kPacksPerStrip);
    CHECK(rows.packs_per_row > (rows.num_chunks - 1) * kPacksPerStrip + 4);
    const uint64_t lines = (4 * uint64_t{rows.packs_per_row} + kWordsPerLine - 1) / kWordsPerLine;
    CHECK(lines * kUnitsPerLine * sizeof(Unit) <= layout.line_row_bytes);
    CHECK(rows.row_bytes() <= (plain.row_bytes() + 127) / 128 * 128);  // in boxes
  }
}

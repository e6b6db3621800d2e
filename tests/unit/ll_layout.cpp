// SPDX-License-Identifier: Apache-2.0
// The Low-Latency window: regions never overlap and end where the size says, for many random shapes.
#include "shared/ll_layout.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

using namespace nccl_ep;

namespace {

struct Region {
  uint64_t begin, end;
  uint64_t alignment = sizeof(Unit);
};

std::vector<Region> regions_of(const LlLayout& layout) {
  std::vector<Region> regions{{layout.hello_at(0), layout.hello_at(layout.num_ranks)},
                              {layout.life_at(0), layout.life_at(layout.num_ranks), sizeof(uint32_t)}};
  const uint32_t rank = layout.num_ranks - 1, token = layout.max_tokens - 1;
  for (uint32_t bank = 0; bank < LlLayout::kNumBanks; ++bank) {
    regions.push_back(
        {layout.counts_at(bank, 0, 0), layout.counts_at(bank, rank, layout.count_units - 1) + sizeof(Unit)});
    regions.push_back(
        {layout.route_at(bank, 0, 0, 0), layout.route_at(bank, rank, token, layout.max_hits - 1) + sizeof(Unit)});
    regions.push_back({layout.row_at(bank, 0, 0), layout.row_at(bank, rank, token) + layout.line_row_bytes});
  }
  for (uint32_t phase = 0; phase < MaskMeetings::kPhases; ++phase) {
    regions.push_back({layout.meetings().at(phase, 0), layout.meetings().at(phase, rank) + sizeof(Unit)});
  }
  return regions;
}

}  // namespace

TEST_CASE("ll_layout: regions are aligned, in order and inside the window") {
  std::mt19937 random(20931);
  const auto draw = [&](uint32_t low, uint32_t high) {
    return std::uniform_int_distribution<uint32_t>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    const LlLayout layout = LlLayout::make(draw(1, 72), draw(1, 1024), draw(1, 512), draw(1, 64), 16 * draw(1, 2048));
    const std::vector<Region> regions = regions_of(layout);
    for (size_t r = 0; r < regions.size(); ++r) {
      CHECK(regions[r].begin % regions[r].alignment == 0);
      CHECK(regions[r].begin < regions[r].end);
      if (r > 0) CHECK(regions[r - 1].end <= regions[r].begin);
    }
    CHECK(layout.row_at(0, 0, 1) % (sizeof(Unit) * kUnitsPerLine) == 0);
    CHECK(layout.route_at(1, 0, 0, 0) % sizeof(Unit) == 0);
    CHECK(regions.back().end == layout.size());
  }
}

TEST_CASE("ll_layout: neighbouring slots touch and do not overlap") {
  const LlLayout layout = LlLayout::make(8, 128, 32, 8, 14336);
  const uint64_t lines = 116;  // 896 packs: 28 strips of 31 packs in four lines, and 28 packs in four
  CHECK(layout.row_at(0, 0, 1) == layout.row_at(0, 0, 0) + 128 * lines);
  CHECK(layout.row_at(0, 1, 0) == layout.row_at(0, 0, 127) + 128 * lines);
  CHECK(layout.route_at(0, 0, 1, 0) == layout.route_at(0, 0, 0, 7) + sizeof(Unit));
  CHECK(layout.bank_at(1) == layout.bank_at(0) + layout.bank_bytes);
}

TEST_CASE("ll_layout: handle memory holds a header and entries for every slot") {
  const LlHandleLayout layout{8, 128, 4};
  CHECK(layout.num_tokens_at(0) >= sizeof(uint32_t));
  CHECK(layout.header_at(0) >= layout.num_tokens_at(8));
  CHECK(layout.entry_at(0, 0) >= layout.header_at(8 * 128));
  CHECK(layout.size() == layout.entry_at(8 * 128 - 1, 3) + sizeof(LlRouteEntry));
}

TEST_CASE("ll_layout: a row for each route takes room only where there are more routes than ranks") {
  const LlLayout plain = LlLayout::make(4, 10, 8, 8, 1024);
  CHECK(LlLayout::make(4, 10, 8, 4, 1024, 4).bank_bytes == LlLayout::make(4, 10, 8, 4, 1024).bank_bytes);
  const LlLayout exact = LlLayout::make(4, 10, 8, 8, 1024, 8);
  CHECK(exact.bank_bytes - plain.bank_bytes == 4 * 10 * exact.line_row_bytes);
  CHECK(exact.row_of_route_at(1, 0, 0) == exact.row_at(1, 0, 0));
  CHECK(exact.row_of_route_at(1, 3, 7) == exact.row_at(1, 0, 31));
  CHECK(exact.row_of_route_at(1, 9, 7) + exact.line_row_bytes == exact.bank_at(2));
}

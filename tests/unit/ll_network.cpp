// SPDX-License-Identifier: Apache-2.0
// What Low-Latency groups of several LSA teams have besides: boxes never overlap, signals are told apart.
#include "shared/ll_network.hpp"

#include <doctest/doctest.h>

#include <random>
#include <set>

#include "plan/ll_plan.hpp"

using namespace nccl_ep;

namespace {

struct Draw {
  std::mt19937 random{20931};
  uint32_t operator()(uint32_t low, uint32_t high) {
    return std::uniform_int_distribution<uint32_t>(low, high)(random);
  }
};

plan::LlShape random_shape(Draw& draw) {
  const uint32_t team_size = draw(1, 8), num_ranks = team_size * draw(2, 8);
  return {{num_ranks, num_ranks * draw(1, 64), draw(1, 300), draw(1, 64), 16 * draw(1, 512)}, team_size};
}

}  // namespace

TEST_CASE("ll_network: boxes follow one another behind the team's window, and what is in them") {
  Draw draw;
  for (int i = 0; i < 500; ++i) {
    const plan::LlShape shape = random_shape(draw);
    const LlRemoteLayout layout = shape.remote_layout();
    const uint32_t last = shape.num_remote_ranks() - 1;
    uint64_t end = shape.layout().size();
    for (uint32_t bank = 0; bank < LlLayout::kNumBanks; ++bank) {
      CHECK(layout.inbox_at(bank, 0) == end);
      CHECK(layout.outbox_at(bank, 0) == layout.inbox_at(bank, last) + layout.box_bytes);
      end = layout.outbox_at(bank, last) + layout.box_bytes;
    }
    CHECK(end == shape.window_bytes());
    CHECK(layout.box_bytes % LlLayout::kAlign == 0);

    CHECK(layout.record_at(0) >= sizeof(Unit) * shape.layout().count_units);
    CHECK(layout.routes_at(shape.max_tokens) % sizeof(Unit) == 0);
    CHECK(layout.routes_at(shape.max_tokens) >= layout.record_at(shape.max_tokens));
    CHECK(layout.row_at(0) >= layout.routes_at(shape.max_tokens) + sizeof(Unit) * shape.max_tokens * shape.max_topk);
    CHECK(layout.row_at(0) >= sizeof(float) * shape.max_tokens * shape.max_topk);
    CHECK(layout.row_at(shape.max_tokens) == layout.box_bytes);
    CHECK(layout.row_at(1) - layout.row_at(0) >= shape.max_row_bytes);
  }
}

TEST_CASE("ll_network: with exact sums a token has a row for each expert that a rank may have") {
  plan::LlShape shape{{8, 24, 10, 6, 96}, 2};
  const LlRemoteLayout plain = shape.remote_layout();
  shape.exact_combine = true;
  const LlRemoteLayout exact = shape.remote_layout();
  CHECK(plain.row_at(1) - plain.row_at(0) == 128);
  CHECK(exact.row_at(1) - exact.row_at(0) == 3 * 128);  // 3 rows of 96 bytes
  CHECK(exact.box_bytes - plain.box_bytes == 10 * 2 * 128);
}

TEST_CASE("ll_network: every source has signals of its own") {
  for (const uint32_t num_ranks : {2u, 7u, 256u}) {
    const LlSignals signals{num_ranks};
    std::set<uint32_t> numbers;
    for (uint32_t source = 0; source < num_ranks; ++source) {
      CHECK(numbers.insert(signals.hello(source)).second);
      CHECK(numbers.insert(signals.rows(source)).second);
      for (uint32_t bank = 0; bank < LlLayout::kNumBanks; ++bank) {
        CHECK(numbers.insert(signals.head(bank, source)).second);
      }
    }
    CHECK(*numbers.rbegin() + 1 == signals.count(false));
    for (uint32_t source = 0; source < num_ranks; ++source) {
      for (const auto kind : {LlSignals::kLife, LlSignals::kMeeting, LlSignals::kAgreement}) {
        CHECK(numbers.insert(signals.of(kind, source)).second);
      }
      CHECK(signals.of(LlSignals::kHello, source) == signals.hello(source));
      CHECK(signals.of(LlSignals::kHead, source) == signals.head(0, source));
      CHECK(signals.of(LlSignals::kHeadOfOtherBank, source) == signals.head(1, source));
      CHECK(signals.of(LlSignals::kRows, source) == signals.rows(source));
    }
    CHECK(*numbers.rbegin() + 1 == signals.count(true));
  }
}

TEST_CASE("ll_network: a handle has tokens of remote rows behind the team's part") {
  Draw draw;
  for (int i = 0; i < 500; ++i) {
    const plan::LlShape shape = random_shape(draw);
    const LlHandleLayout inside = shape.handle_layout(draw(0, 1) ? Layout::expert_major : Layout::rank_major, 4);
    const LlRemoteHandleLayout remote = LlRemoteHandleLayout::make(inside, shape.num_remote_ranks());
    CHECK(remote.num_rows_at(0) >= inside.size());
    CHECK(remote.token_at(0, 0) == remote.num_rows_at(shape.num_remote_ranks()));
    CHECK(remote.token_at(1, 0) == remote.token_at(0, shape.max_tokens));
    CHECK(shape.handle_bytes(inside) == remote.size());
  }
  const plan::LlShape one_team{{8, 64, 128, 8, 1024}, 8};
  CHECK(one_team.handle_bytes(one_team.handle_layout(Layout::expert_major, 8)) ==
        one_team.handle_layout(Layout::expert_major, 8).size());
  CHECK(one_team.window_bytes() == one_team.layout().size());
}

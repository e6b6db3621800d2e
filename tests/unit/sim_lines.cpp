// SPDX-License-Identifier: Apache-2.0
// Lines on the simulated GPUs: what they cost, how a warp waits for them, and what is reported when they are misused.
#include <string>

#include "sim_world.hpp"

using namespace nccl_ep;
using namespace nccl_ep::sim;
using namespace nccl_ep::sim::test;

namespace {

// Nobody had to be let loose because nothing else went on.
bool was_never_idle(const World& world) { return world.executor->clock_ns() <= world.executor->steps() / 16; }

}  // namespace

TEST_CASE("sim_lines: a line to a peer counts as one store of 128 bytes, an inactive one as nothing") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_send_two_lines") == Executor::Outcome::idle);
    CHECK(world.counters.link(0, 1).stores == 2);
    CHECK(world.counters.link(0, 1).bytes == 256);
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const bool active = lane / 8 % 2 == 1;
      CHECK(world.words[1][4 * lane] == (active ? lane : 0));
      CHECK(world.words[1][4 * lane + 3] == (active ? 1 : 0));
    }
  });
}

TEST_CASE("sim_lines: a warp that waits rests as a whole, and any of its lines wakes it") {
  over_many_seeds([](World& world) {
    const Executor::Outcome outcome = world.run("test_send_lines_slowly");
    INFO(world.report());
    REQUIRE(outcome == Executor::Outcome::idle);
    CHECK(was_never_idle(world));
    const uint32_t num_looks = world.words[1][4196];
    CHECK(num_looks > 0);
    CHECK(num_looks <= 9 * 5);  // a few before each rest
    for (uint32_t lane = 0; lane < 32; ++lane) CHECK(world.words[1][4196 + lane] == num_looks);
  });
}

TEST_CASE("sim_lines: a warp that waits for units together rests as well") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_wait_for_any_unit") == Executor::Outcome::idle);
    for (uint32_t lane = 0; lane < 32; ++lane) CHECK(world.words[1][1000 + lane] == 1);
    CHECK(was_never_idle(world));
  });
}

TEST_CASE("sim_lines: a warp that looks at one line several times does not rest before it has looked at the others") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_look_often_at_one_line") == Executor::Outcome::idle);
    for (uint32_t lane = 0; lane < 32; ++lane) CHECK(world.words[1][1000 + lane] == 1);
    CHECK(was_never_idle(world));
  });
}

TEST_CASE("sim_lines: a deadlock names the line") {
  World world(small_config(4));
  CHECK(world.run("test_wait_for_line") == Executor::Outcome::failed);
  CHECK(world.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
  CHECK_MESSAGE(contains(world.report(),
                         "test_wait_for_line on rank 1, block 0, warp 0, lanes 0-31: polls the line at rank 1 memory"),
                world.report());
}

TEST_CASE("sim_lines: misuse is a failure that says who, what and where") {
  const auto expect_fault = [](const std::string& kernel, const std::string& text, const std::string& who) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      World world(small_config(seed));
      CHECK(world.run(kernel, 1, 32) == Executor::Outcome::failed);
      CHECK(world.failure() == NCCL_EP_SIM_FAILURE_FAULT);
      CHECK_MESSAGE(contains(world.report(), text), world.report());
      CHECK_MESSAGE(contains(world.report(), "\n  " + kernel + " on rank "), world.report());
      CHECK_MESSAGE(contains(world.report(), who), world.report());
      CHECK_MESSAGE(contains(world.report(), "sim_lines_kernels.cpp:"), world.report());
    }
  };
  expect_fault("test_shift_part", ", expected a multiple of 128 plus ", ", block 0, warp 0, lane ");
  expect_fault("test_swap_lines", "lanes 8 to 15 of a warp access one line or nothing", "lane 10, which accesses");
  expect_fault("test_leave_lane_out", "lanes 16 to 23 of a warp access one line or nothing",
               "lane 19, which is inactive");
  expect_fault("test_exit_before_line", "lanes 24 to 31 of a warp access one line or nothing",
               "lane 30, which has exited");
  expect_fault("test_meet_elsewhere", "the lanes of a warp meet in different collectives", "ld_line");
  expect_fault("test_load_shared_line", "at a scope beyond the block's", ", block 0, warp 0, lane ");
  expect_fault("test_load_null_line", "a bad access to address 0x0", ", block 0, warp 0, lane 16");
}

// SPDX-License-Identifier: Apache-2.0
// The executor of the simulated cluster, by small kernels that use one thing each, over several seeds and schedules.
#include "sim/executor.hpp"

#include <string>
#include <vector>

#include "runtime/error.hpp"
#include "sim_world.hpp"

using namespace nccl_ep;
using namespace nccl_ep::sim;
using namespace nccl_ep::sim::test;

TEST_CASE("sim_executor: every thread runs once and knows who it is") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_global_idx", 7, 96) == Executor::Outcome::idle);
    CHECK(world.num_done == 2);
    for (uint32_t rank = 0; rank < 2; ++rank) {
      for (uint32_t i = 0; i < 7 * 96; ++i) REQUIRE(world.words[rank][i] == i + 7000);
      CHECK(world.words[rank][7 * 96] == 0);
    }
  });
}

TEST_CASE("sim_executor: the lanes of a warp exchange values") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_collectives", 2, 128) == Executor::Outcome::idle);
    for (uint32_t i = 0; i < 256; ++i) REQUIRE(world.words[0][i] == 10);
  });
}

TEST_CASE("sim_executor: those that are left go on meeting") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_leave_early", 1, 128) == Executor::Outcome::idle);
    for (uint32_t i = 1; i < 128; ++i) {
      if (i % 32 != 0) REQUIRE(world.words[1][i] == 32 - i % 32);
    }
  });
}

TEST_CASE("sim_executor: shared memory belongs to a block") {
  over_many_seeds([](World& world) {
    const Executor::Outcome outcome = world.run("test_reverse", 6, 128);
    INFO(world.report());
    REQUIRE(outcome == Executor::Outcome::idle);
    for (uint32_t i = 0; i < 6 * 128; ++i) REQUIRE(world.words[1][i] == 127 - (i + 1) % 128);
  });
}

TEST_CASE("sim_executor: named barriers hand over between warps") {
  over_many_seeds([](World& world) {
    const Executor::Outcome outcome = world.run("test_hand_over");
    INFO(world.report());
    REQUIRE(outcome == Executor::Outcome::idle);
    for (uint32_t lane = 0; lane < 32; ++lane) REQUIRE(world.words[0][32 + lane] == 45 * (31 - lane));
  });
}

TEST_CASE("sim_executor: what is stored before a system release arrives before its flag") {
  over_many_seeds([](World& world) {
    const Executor::Outcome outcome = world.run("test_send");
    INFO(world.report());
    REQUIRE(outcome == Executor::Outcome::idle);
    for (uint32_t lane = 0; lane < 32; ++lane) REQUIRE(world.words[1][1024 + lane] == 1);
    CHECK(world.counters.link(0, 1).bytes == 33 * 4);
    CHECK(world.counters.link(0, 1).stores == 33);
    CHECK(world.counters.link(1, 0).bytes == 0);
  });
}

TEST_CASE("sim_executor: a release at GPU scope publishes nothing to peers") {
  ncclEpSimConfig_t config = small_config(5);
  config.stores = NCCL_EP_SIM_STORES_LATE;
  World late(config);
  REQUIRE(late.run("test_send_narrow") == Executor::Outcome::idle);
  CHECK(late.words[1][1024 + 3] == 0);
  CHECK(late.words[1][3] == 4);  // by the end of the kernel all is stored

  config.stores = NCCL_EP_SIM_STORES_DIRECT;
  World direct(config);
  REQUIRE(direct.run("test_send_narrow") == Executor::Outcome::idle);
  CHECK(direct.words[1][1024 + 3] == 1);
}

TEST_CASE("sim_executor: bulk copies") {
  over_many_seeds(
      [](World& world) {
        for (uint32_t rank = 0; rank < 3; ++rank) {
          for (uint32_t i = 0; i < 1024; ++i) world.words[rank][i] = 7 * i + rank;
        }
        const Executor::Outcome outcome = world.run("test_bulk");
        INFO(world.report());
        REQUIRE(outcome == Executor::Outcome::idle);
        for (uint32_t rank = 0; rank < 3; ++rank) {
          for (uint32_t i = 0; i < 1024; ++i) REQUIRE(world.words[(rank + 1) % 3][1024 + i] == 8 * i + rank);
        }
        CHECK(world.counters.link(2, 0).bytes == 4096);
        CHECK(world.counters.link(2, 0).bulk_copies == 1);
      },
      3);
}

TEST_CASE("sim_executor: time passes for those who wait for nothing else") {
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_wait_for_time") == Executor::Outcome::idle);
    CHECK(world.words[0][5] == 1);
    CHECK(world.executor->clock_ns() >= 20'000'000'000);
  });
  over_many_seeds([](World& world) {
    REQUIRE(world.run("test_two_flags_or_time") == Executor::Outcome::idle);
    CHECK(world.words[0][5] == 3);
  });
}

TEST_CASE("sim_executor: no more blocks than fit are resident") {
  ncclEpSimConfig_t config = small_config(3, 1);
  config.sms_per_gpu = 2;
  const runtime::LaunchShape shape{1, 64, 8192};
  World fits(config);
  const uint32_t num_resident = 2 * fits.executor->blocks_per_sm(shape);
  CHECK(fits.run("test_meet_as_grid", num_resident) == Executor::Outcome::idle);

  World too_many(config);
  CHECK(too_many.run("test_meet_as_grid", num_resident + 1) == Executor::Outcome::failed);
  CHECK(too_many.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
  CHECK(contains(too_many.report(), "1 of " + std::to_string(num_resident + 1) + " blocks wait for room on an SM"));
}

TEST_CASE("sim_executor: a deadlock says who waits for what and where") {
  World polls(small_config(4));
  CHECK(polls.run("test_wait_forever") == Executor::Outcome::failed);
  CHECK(polls.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
  CHECK(contains(polls.report(), "test_wait_forever on rank 1, block 0, warp 0, lane 7: polls rank 1 memory + 0x40"));
  CHECK(contains(polls.report(), "(value 0)"));
  CHECK(contains(polls.report(), "sim_executor_kernels.cpp:"));

  World meets(small_config(4));
  CHECK(meets.run("test_forget_barrier") == Executor::Outcome::failed);
  CHECK(contains(meets.report(), "warp 0, lanes 0-31: waits for sync_block"));
  CHECK(contains(meets.report(), "warp 1, lanes 0-3: waits for sync_warp"));
  CHECK(contains(meets.report(), "warp 1, lanes 4-31: waits for time to pass"));
}

TEST_CASE("sim_executor: misuse is a failure that says so") {
  const auto fault_of = [](const std::string& kernel) {
    World world(small_config(6));
    CHECK(world.run(kernel) == Executor::Outcome::failed);
    CHECK(world.failure() == NCCL_EP_SIM_FAILURE_FAULT);
    return world.report();
  };
  CHECK(contains(fault_of("test_barrier_disagreement"), "those who came before said"));
  CHECK(contains(fault_of("test_leave_bulk_store"), "still read from shared memory"));
  CHECK(contains(fault_of("test_unmade_mbarrier"), "there is no initialised mbarrier at rank"));
  CHECK(contains(fault_of("test_null"), "a bad access to address 0x0"));
  CHECK(contains(fault_of("test_misaligned"), "an access of 4 bytes to rank"));
  const std::string overflow = fault_of("test_much_stack");
  CHECK_MESSAGE(contains(overflow, "more stack than"), overflow);
}

TEST_CASE("sim_executor: a raw spin loop hangs nobody") {
  World world(small_config(7, 1));
  const Executor::Outcome outcome = world.run("test_plain_spin");
  CHECK(world.report() == "");
  CHECK(outcome == Executor::Outcome::idle);
  World hung(small_config(7, 1));
  CHECK(hung.run("test_plain_hang") == Executor::Outcome::failed);
  CHECK_MESSAGE(contains(hung.report(), "lane 0: runs, and never waits"), hung.report());
}

TEST_CASE("sim_executor: a silent rank stands still until it wakes") {
  World world(small_config(8));
  world.executor->set_silent(0, true);
  REQUIRE(world.run("test_global_idx", 2, 64) == Executor::Outcome::idle);
  CHECK(world.num_done == 1);
  CHECK(world.words[0][5] == 0);
  world.executor->set_silent(0, false);
  REQUIRE(world.executor->run() == Executor::Outcome::idle);
  CHECK(world.num_done == 2);
  CHECK(world.words[0][5] == 2005);
}

TEST_CASE("sim_executor: warps that are stopped stand still, and others run on") {
  World without(small_config(8));
  without.executor->stop_warps(0, 1, 1);
  CHECK(without.run("test_global_idx", 1, 64) == Executor::Outcome::idle);
  CHECK(without.num_done == 2);
  World with(small_config(8));
  with.executor->stop_warps(0, 1, 1);
  CHECK(with.run("test_global_idx", 2, 64) == Executor::Outcome::failed);
  CHECK(with.num_done == 1);
  CHECK(with.words[0][64 + 5] == 2069);
  CHECK(with.words[0][96 + 5] == 0);
}

TEST_CASE("sim_executor: actions happen in the order of their steps, and pauses are obeyed") {
  World world(small_config(9));
  std::vector<int> order;
  world.executor->after(500, [&] { order.push_back(2); });
  world.executor->after(100, [&] {
    order.push_back(1);
    world.executor->request_pause();
  });
  CHECK(world.executor->run() == Executor::Outcome::paused);
  CHECK(order == std::vector<int>{1});
  CHECK(world.executor->run() == Executor::Outcome::idle);
  CHECK(order == std::vector<int>{1, 2});
}

TEST_CASE("sim_executor: the seed decides the run") {
  const auto hash_of = [](uint64_t seed) {
    World world(small_config(seed));
    CHECK(world.run("test_send") == Executor::Outcome::idle);
    CHECK(world.run("test_bulk", 3, 128) == Executor::Outcome::idle);
    return world.executor->schedule_hash();
  };
  for (uint64_t seed = 1; seed <= 8; ++seed) CHECK(hash_of(seed) == hash_of(seed));
  CHECK(hash_of(1) != hash_of(2));
}

TEST_CASE("sim_executor: the step limit ends a simulation") {
  ncclEpSimConfig_t config = small_config(10);
  config.step_limit = 300;
  World world(config);
  CHECK(world.run("test_leave_early", 4, 128) == Executor::Outcome::failed);
  CHECK(world.failure() == NCCL_EP_SIM_FAILURE_STEP_LIMIT);
}

TEST_CASE("sim_executor: launches that no GPU could run are refused") {
  World world(small_config(11));
  const KernelEntry& kernel = *find_kernel("test_send");
  const auto refused = [&](runtime::LaunchShape shape, size_t args_bytes) {
    CHECK_THROWS_AS(world.executor->check_launch(kernel, shape, args_bytes), Error);
  };
  refused({0, 64, 0}, sizeof(Args));
  refused({1, 48, 0}, sizeof(Args));
  refused({1, 2048, 0}, sizeof(Args));
  refused({1, 64, 1 << 20}, sizeof(Args));
  refused({1, 64, 0}, sizeof(Args) + 8);
}

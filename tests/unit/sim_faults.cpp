// SPDX-License-Identifier: Apache-2.0
// What goes wrong on a simulated cluster, by itself or injected: it is reported, it sticks, and it never
// hangs.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "sim_test_cluster.hpp"
#include "sim_test_kernels.hpp"

namespace nccl_ep::sim::test {

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Rank 0 raises a flag in rank 1's memory with `kernel`, and rank 1 waits for it. Returns rank 1's result.
ncclResult_t signal_other_rank(const TestCluster& cluster, const char* kernel, bool is_sender_silent = false,
                               uint64_t wakes_after = 0) {
  ncclResult_t result = ncclSuccess;
  cluster.run([&](const TestRank& self) {
    auto* memory = self.allocate_symmetric<uint32_t>(3);
    self.fill(memory, 0, 3 * sizeof(uint32_t), nullptr);
    self.synchronize();
    auto* peer = self.peer<uint32_t>(self.register_window(memory, 3 * sizeof(uint32_t)), 1);
    if (self.rank == 0) {
      if (is_sender_silent) expect_success(ncclEpSimSilenceRank(self.cluster, 0));
      self.launch(kernel, FlagArgs{peer, peer + 1, nullptr, 5}, nullptr);
      if (wakes_after) expect_success(ncclEpSimWakeRankAfter(self.cluster, 0, wakes_after));
      (void)self.try_synchronize();
    } else {
      self.launch("test_await", FlagArgs{peer, peer + 1, peer + 2, 0}, nullptr);
      result = self.try_synchronize();
    }
  });
  return result;
}

}  // namespace

TEST_CASE("sim_faults: a missing release is a race, in every seed") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    TestCluster good(ranks(2, seed));
    CHECK(signal_other_rank(good, "test_raise") == ncclSuccess);
    CHECK_MESSAGE(good.failure() == NCCL_EP_SIM_FAILURE_NONE, good.report());
    TestCluster bad(ranks(2, seed));
    signal_other_rank(bad, "test_raise_without_release");
    CHECK(bad.failure() == NCCL_EP_SIM_FAILURE_RACE);
    CHECK(contains(bad.report(), "seed " + std::to_string(seed)));
  }
}

TEST_CASE("sim_faults: a kernel that nobody wakes is a deadlock, and the failure sticks on every rank") {
  TestCluster cluster(ranks(2));
  cluster.run([](const TestRank& self) {
    auto* memory = self.allocate<uint32_t>(3);
    self.fill(memory, 0, 3 * sizeof(uint32_t), nullptr);
    if (self.rank == 1) self.launch("test_await", FlagArgs{memory, memory + 1, memory + 2, 0}, nullptr);
    (void)self.try_synchronize();
    if (self.rank == 1) {
      CHECK(self.try_synchronize() == ncclInternalError);
      CHECK(contains(ncclEpSimGetLastError(), "test_await"));
    }
    CHECK(ncclEpSimBarrier(self.cluster, self.rank) == ncclInternalError);
    CHECK(ncclEpSimMemsetAsync(self.cluster, self.rank, memory, 0, 4, nullptr) == ncclInternalError);
    expect_success(ncclEpSimFree(self.cluster, self.rank, memory));
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
}

TEST_CASE("sim_faults: a bad access of a kernel is a fault that names the kernel") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    self.launch("test_count", CountArgs{nullptr, reinterpret_cast<uint32_t*>(64), 1}, nullptr);
    CHECK(self.try_synchronize() == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_FAULT);
  CHECK(contains(cluster.report(), "test_count"));
}

TEST_CASE("sim_faults: what is more than the checker follows ends the simulation with advice, not the process") {
  ncclEpSimConfig_t config = ranks(1);
  config.max_threads_per_block = 1024;
  TestCluster cluster(config);
  cluster.run([](const TestRank& self) {
    auto* out = self.allocate<uint32_t>(1);
    self.launch("test_count", CountArgs{nullptr, out, 1}, nullptr, 10000, 1024);
    CHECK(self.try_synchronize() == ncclInternalError);
    CHECK(self.try_synchronize() == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_LIMIT);
  CHECK(contains(cluster.report(), "follows at most"));
  CHECK(contains(cluster.report(), "checker=False"));
}

TEST_CASE("sim_faults: the checker follows more threads than a full GPU has") {
  ncclEpSimConfig_t config = ranks(1);
  config.max_threads_per_block = 1024;
  TestCluster cluster(config);
  cluster.run([](const TestRank& self) {
    auto* out = self.allocate<uint32_t>(1);
    self.launch("test_count", CountArgs{nullptr, out, 1}, nullptr, 300, 1024);
    self.synchronize();
    CHECK(*out == 1);
  });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_faults: a copy outside its allocation is refused") {
  TestCluster cluster(ranks(1));
  const TestRank self(cluster.handle(), 0);
  auto* array = self.allocate<uint32_t>(8);
  CHECK(ncclEpSimMemcpyAsync(self.cluster, 0, array, array + 4, 20, nullptr) == ncclInvalidArgument);
  CHECK(contains(ncclEpSimGetLastError(), "src is rank 0 memory"));
}

TEST_CASE("sim_faults: a silent rank does nothing until it is woken") {
  TestCluster cluster(ranks(2));
  expect_success(ncclEpSimSilenceRank(cluster.handle(), 1));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(1);
    array[0] = 7;
    self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
    self.barrier();
    if (self.rank == 0) {
      self.synchronize();
      CHECK(array[0] == 1);
    } else {
      CHECK(self.try_synchronize() == ncclSystemError);
      CHECK(array[0] == 7);
    }
    self.barrier();
    if (self.rank == 1) {
      expect_success(ncclEpSimWakeRank(self.cluster, 1));
      self.synchronize();
      CHECK(array[0] == 1);
    }
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE);
}

TEST_CASE("sim_faults: a silent rank is woken when nothing can go on without it") {
  TestCluster cluster(ranks(2));
  CHECK(signal_other_rank(cluster, "test_raise", true, 1 << 30) == ncclSuccess);
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_faults: waiting for a silent rank's flag is a deadlock") {
  TestCluster cluster(ranks(2));
  CHECK(signal_other_rank(cluster, "test_raise", true) == ncclInternalError);
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
}

TEST_CASE("sim_faults: a delayed rank is late, and nothing else changes") {
  TestCluster cluster(ranks(2));
  expect_success(ncclEpSimDelayRank(cluster.handle(), 0, 1 << 20));
  CHECK(signal_other_rank(cluster, "test_raise") == ncclSuccess);
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_faults: losing a node silences its ranks") {
  ncclEpSimConfig_t config = ranks(1);
  config.num_nodes = 2;
  TestCluster cluster(config);
  CHECK(ncclEpSimLoseNode(cluster.handle(), 2) == ncclInvalidArgument);
  expect_success(ncclEpSimLoseNode(cluster.handle(), 1));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(1);
    self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
    CHECK(self.try_synchronize() == (self.rank == 0 ? ncclSuccess : ncclSystemError));
  });
}

TEST_CASE("sim_config: defaults are filled in, and what makes no sense is refused") {
  const auto refused = [](void (*change)(ncclEpSimConfig_t&), const char* field) {
    ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
    change(config);
    ncclEpSimCluster_t cluster = nullptr;
    CHECK(ncclEpSimClusterCreate(&cluster, &config) == ncclInvalidArgument);
    CHECK(cluster == nullptr);
    CHECK(contains(ncclEpSimGetLastError(), field));
  };
  refused([](ncclEpSimConfig_t& config) { config.magic = 0; }, "NCCL_EP_SIM_CONFIG_INIT");
  refused([](ncclEpSimConfig_t& config) { config.gpus_per_node = 1000; }, "gpus_per_node is 1000");
  refused([](ncclEpSimConfig_t& config) { config.lsa_team_size = 3; }, "lsa_team_size is 3");
  refused([](ncclEpSimConfig_t& config) { config.max_threads_per_block = 2048; }, "max_threads_per_block");
  refused([](ncclEpSimConfig_t& config) { config.sms_per_gpu = 1 << 27; }, "sms_per_gpu is 134217728");
  refused([](ncclEpSimConfig_t& config) { config.max_shared_bytes = 1u << 31; }, "max_shared_bytes is 2147483648");
  refused([](ncclEpSimConfig_t& config) { config.memory_bytes = uint64_t{1} << 61; },
          "memory_bytes is 2305843009213693952, expected at most 140737488355328");
  CHECK(ncclEpSimClusterCreate(nullptr, nullptr) == ncclInvalidArgument);

  setenv("NCCL_EP_SIM_SEED", "42", 1);
  ncclEpSimConfig_t config = ranks(2, 0);
  CHECK(TestCluster(config).config().seed == 42);
  setenv("NCCL_EP_SIM_SEED", "many", 1);
  refused([](ncclEpSimConfig_t&) {}, "NCCL_EP_SIM_SEED");
  unsetenv("NCCL_EP_SIM_SEED");
  const TestCluster cluster(config);
  CHECK(cluster.config().seed == 1);
  CHECK(cluster.config().lsa_team_size == 2);
  CHECK(cluster.config().stores != NCCL_EP_SIM_STORES_AUTO);
  CHECK(cluster.config().schedule != NCCL_EP_SIM_SCHEDULE_AUTO);
}

TEST_CASE("sim_usage: what is allocated is counted until it is freed") {
  TestCluster cluster(ranks(2));
  cluster.run([&](const TestRank& self) {
    void* host = nullptr;
    auto* ordinary = self.allocate<uint32_t>(10);
    auto* symmetric = self.allocate_symmetric<uint32_t>(20);
    CHECK(ncclEpSimHostAlloc(self.cluster, self.rank, &host, SIZE_MAX) == ncclSystemError);
    expect_success(ncclEpSimHostAlloc(self.cluster, self.rank, &host, 30));
    const ncclWindow_t window = self.register_window(symmetric, 20);
    const cudaStream_t stream = self.create_stream();
    const ncclEpSimEvent_t event = self.create_event();
    const ncclEpSimUsage_t usage = cluster.usage(self.rank);
    CHECK(usage.device_bytes == 120);
    CHECK(usage.num_device_allocations == 2);
    CHECK(usage.host_bytes == 30);
    CHECK(usage.num_windows + usage.num_streams + usage.num_events == 3);

    CHECK(ncclEpSimFree(self.cluster, self.rank, symmetric) == ncclInvalidArgument);
    expect_success(ncclEpSimWindowDeregister(self.cluster, self.rank, window));
    expect_success(ncclEpSimMemFree(self.cluster, self.rank, symmetric));
    expect_success(ncclEpSimFree(self.cluster, self.rank, ordinary));
    CHECK(ncclEpSimFree(self.cluster, self.rank, ordinary) == ncclInvalidArgument);
    expect_success(ncclEpSimHostFree(self.cluster, self.rank, host));
    expect_success(ncclEpSimStreamDestroy(self.cluster, self.rank, stream));
    expect_success(ncclEpSimEventDestroy(self.cluster, self.rank, event));
    const ncclEpSimUsage_t left = cluster.usage(self.rank);
    CHECK(left.device_bytes + left.host_bytes + left.num_device_allocations + left.num_host_allocations == 0);
    CHECK(left.num_windows + left.num_streams + left.num_events + left.num_graphs == 0);
  });
}

TEST_CASE("sim_faults: host memory that is freed under a kernel belongs to nobody else until the kernel is done") {
  constexpr uint32_t kCount = 64;
  constexpr uint32_t kBlocks = 32;
  TestCluster cluster(ranks(1));
  cluster.run([&](const TestRank& self) {
    const auto allocate = [&] {
      void* memory = nullptr;
      expect_success(ncclEpSimHostAlloc(self.cluster, self.rank, &memory, kCount * sizeof(uint32_t)));
      return static_cast<uint32_t*>(memory);
    };
    uint32_t* freed = allocate();
    std::fill_n(freed, kCount, 0);
    self.launch("test_count", CountArgs{nullptr, freed, kCount}, nullptr);
    expect_success(ncclEpSimHostFree(self.cluster, self.rank, freed));
    CHECK(ncclEpSimHostFree(self.cluster, self.rank, freed) == ncclInvalidArgument);
    CHECK(cluster.usage(self.rank).num_host_allocations == 0);
    std::vector<uint32_t*> others;
    for (uint32_t i = 0; i < kBlocks; ++i) {
      others.push_back(allocate());
      std::fill_n(others.back(), kCount, 7);
    }
    self.synchronize();
    for (const uint32_t* other : others) CHECK(std::count(other, other + kCount, 7) == kCount);
    for (uint32_t* other : others) expect_success(ncclEpSimHostFree(self.cluster, self.rank, other));
  });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_counters: stores to another rank are counted on their link") {
  TestCluster cluster(ranks(2));
  CHECK(signal_other_rank(cluster, "test_raise") == ncclSuccess);
  CHECK(cluster.link(0, 1).stores == 2);
  CHECK(cluster.link(0, 1).bytes == 8);
  CHECK(cluster.link(1, 0).bytes == 0);
  expect_success(ncclEpSimResetCounters(cluster.handle()));
  CHECK(cluster.link(0, 1).bytes == 0);
}

TEST_CASE("sim_windows: memory of different places on different ranks is refused") {
  TestCluster cluster(ranks(3));
  cluster.run([](const TestRank& self) {
    if (self.rank == 2) (void)self.allocate_symmetric<uint32_t>(5000);
    auto* memory = self.allocate_symmetric<uint32_t>(10);
    ncclWindow_t window = nullptr;
    CHECK(ncclEpSimWindowRegister(self.cluster, self.rank, memory, 40, &window) == ncclInvalidUsage);
    auto* ordinary = self.allocate<uint32_t>(10);
    CHECK(ncclEpSimWindowRegister(self.cluster, self.rank, ordinary, 40, &window) == ncclInvalidArgument);
    CHECK(window == nullptr);
  });
}

}  // namespace nccl_ep::sim::test

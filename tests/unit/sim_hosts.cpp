// SPDX-License-Identifier: Apache-2.0
// The ranks' hosts: collective calls, deadlocks between them, and runs that do not depend on their timing.
#include <chrono>
#include <new>
#include <random>
#include <thread>

#include "runtime/error.hpp"
#include "sim/cluster.hpp"
#include "sim_test_cluster.hpp"
#include "sim_test_kernels.hpp"

namespace nccl_ep::sim::test {

namespace {

void sleep_randomly() {
  thread_local std::mt19937 random{std::random_device{}()};
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
}

// Flags go round the ranks, on two streams, with a collective call in between.
void pass_flags_around(const TestRank& self, int num_ranks, bool with_sleeps) {
  const auto pause = [&] {
    if (with_sleeps) sleep_randomly();
  };
  auto* memory = self.allocate_symmetric<uint32_t>(3);
  self.fill(memory, 0, 3 * sizeof(uint32_t), nullptr);
  self.synchronize();
  pause();
  const ncclWindow_t window = self.register_window(memory, 3 * sizeof(uint32_t));
  const int next = (self.rank + 1) % num_ranks;
  auto* peer = self.peer<uint32_t>(window, next);
  const cudaStream_t side = self.create_stream();
  pause();
  self.launch("test_raise", FlagArgs{peer, peer + 1, nullptr, static_cast<uint32_t>(self.rank)}, nullptr);
  pause();
  self.launch("test_await", FlagArgs{memory, memory + 1, memory + 2, 0}, side);
  pause();
  self.synchronize(side);
  CHECK(memory[2] == static_cast<uint32_t>((self.rank + num_ranks - 1) % num_ranks));
  self.synchronize();
  self.barrier();
}

uint64_t hash_of_run(uint64_t seed, bool with_sleeps) {
  TestCluster cluster(ranks(4, seed));
  cluster.run([&](const TestRank& self) { pass_flags_around(self, 4, with_sleeps); });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
  return cluster.hash();
}

}  // namespace

TEST_CASE("sim_hosts: the same seed gives the same run however the hosts are scheduled") {
  const uint64_t hash = hash_of_run(5, false);
  for (int repeat = 0; repeat < 5; ++repeat) CHECK(hash_of_run(5, true) == hash);
  CHECK(hash_of_run(6, false) != hash);
}

TEST_CASE("sim_hosts: all_gather and barrier reach every rank") {
  TestCluster cluster(ranks(4));
  cluster.run([](const TestRank& self) {
    const uint32_t mine = static_cast<uint32_t>(self.rank) * 10;
    uint32_t all[4] = {};
    for (int repeat = 0; repeat < 3; ++repeat) {
      expect_success(ncclEpSimAllGather(self.cluster, self.rank, &mine, all, sizeof(mine)));
      for (uint32_t i = 0; i < 4; ++i) CHECK(all[i] == i * 10);
      self.barrier();
    }
  });
}

TEST_CASE("sim_hosts: collective calls that differ are refused on every rank") {
  TestCluster cluster(ranks(2));
  cluster.run([](const TestRank& self) {
    uint32_t in = 1, out[2];
    const ncclResult_t result = self.rank == 0 ? ncclEpSimBarrier(self.cluster, self.rank)
                                               : ncclEpSimAllGather(self.cluster, self.rank, &in, out, sizeof(in));
    CHECK(result == ncclInvalidUsage);
    CHECK(std::string(ncclEpSimGetLastError()).find("do not match") != std::string::npos);
  });
}

TEST_CASE("sim_hosts: hosts that wait for one another are reported, not hung") {
  TestCluster cluster(ranks(3));
  cluster.run([](const TestRank& self) {
    if (self.rank == 2) return;  // never comes to the barrier
    CHECK(ncclEpSimBarrier(self.cluster, self.rank) == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_HOST_DEADLOCK);
  CHECK(cluster.report().find("rank 2 has left") != std::string::npos);
  CHECK(cluster.report().find("seed 1") != std::string::npos);
}

TEST_CASE("sim_hosts: ranks may enter again when all have left") {
  TestCluster cluster(ranks(2));
  for (int session = 0; session < 3; ++session) {
    cluster.run([](const TestRank& self) {
      auto* array = self.allocate<uint32_t>(1);
      self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
      self.synchronize();
      self.barrier();
      CHECK(array[0] == 1);
    });
  }
}

TEST_CASE("sim_hosts: one thread may act for all ranks") {
  TestCluster cluster(ranks(2));
  for (int rank = 0; rank < 2; ++rank) expect_success(ncclEpSimRankEnter(cluster.handle(), rank));
  for (int rank = 0; rank < 2; ++rank) {
    const TestRank self(cluster.handle(), rank);
    auto* array = self.allocate<uint32_t>(1);
    self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
    self.synchronize();
    CHECK(array[0] == 1);
  }
  expect_success(ncclEpSimRankLeave(cluster.handle(), 0));
  CHECK(ncclEpSimRankEnter(cluster.handle(), 0) == ncclInvalidUsage);  // it would wait for itself
  CHECK(ncclEpSimClusterDestroy(cluster.handle()) == ncclInvalidUsage);
  expect_success(ncclEpSimRankLeave(cluster.handle(), 1));
}

TEST_CASE("sim_hosts: waiting for a rank that was not entered is refused") {
  TestCluster cluster(ranks(2));
  CHECK(ncclEpSimStreamSynchronize(cluster.handle(), 0, nullptr) == ncclSuccess);  // nothing to wait for
  auto* array = TestRank(cluster.handle(), 0).allocate<uint32_t>(1);
  TestRank(cluster.handle(), 0).launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
  CHECK(ncclEpSimStreamSynchronize(cluster.handle(), 0, nullptr) == ncclInvalidUsage);
  CHECK(ncclEpSimRankLeave(cluster.handle(), 0) == ncclInvalidUsage);
  CHECK(ncclEpSimRankEnter(cluster.handle(), 2) == ncclInvalidArgument);
}

TEST_CASE("sim_hosts: a collective call for a rank that was not entered is refused and does not count") {
  for (const uint32_t num_ranks : {1u, 2u}) {
    TestCluster cluster(ranks(num_ranks));
    CHECK(ncclEpSimBarrier(cluster.handle(), 0) == ncclInvalidUsage);
    cluster.run([](const TestRank& self) {
      int all[2] = {-1, -1};
      expect_success(ncclEpSimAllGather(self.cluster, self.rank, &self.rank, all, sizeof(int)));
      CHECK(all[self.rank] == self.rank);
    });
  }
}

TEST_CASE("sim_hosts: what is thrown beside the kernels ends the simulation and not the process") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    ncclComm_t comm = nullptr;
    expect_success(ncclEpSimGetComm(self.cluster, self.rank, &comm));
    Cluster& sim = *static_cast<SimComm*>(reinterpret_cast<runtime::ForeignCommunicator*>(comm))->cluster;
    const auto ready = [host = std::this_thread::get_id()] {
      if (std::this_thread::get_id() != host) throw std::bad_alloc();
      return false;
    };
    Hosts::Lock lock = sim.lock();
    CHECK_THROWS_AS(sim.wait(lock, sim.rank(self.rank), "memory", ready), Error);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_LIMIT);
  CHECK(cluster.report().find("the host has no memory left") != std::string::npos);
}

}  // namespace nccl_ep::sim::test

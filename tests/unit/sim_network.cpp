// SPDX-License-Identifier: Apache-2.0
// The simulated network: what a signal, a counter and a flush promise, and that they promise no more.
#include "sim/cluster.hpp"
#include "sim_network_kernels.hpp"
#include "sim_test_cluster.hpp"

namespace nccl_ep::sim::test {

namespace {

using Reach = runtime::NetworkNeeds::Reach;

constexpr uint64_t kNumSeeds = 40;
// What a rank needs to use the network in these tests.
struct Endpoint {
  explicit Endpoint(const TestRank& self, Reach reach = Reach::world)
      : memory(self.allocate_symmetric<uint32_t>(kMemoryBytes / 4)) {
    ncclComm_t handle = nullptr;
    expect_success(ncclEpSimGetComm(self.cluster, self.rank, &handle));
    sim = static_cast<SimComm*>(reinterpret_cast<runtime::ForeignCommunicator*>(handle));
    connect({4, 8, 8, reach});
    out = self.allocate<uint32_t>(2 * kWords);
    self.fill(memory, 0, kMemoryBytes, nullptr);
    self.synchronize();
    window = self.register_window(memory, kMemoryBytes);
  }
  void connect(const runtime::NetworkNeeds& needs) {
    const Hosts::Lock lock = sim->cluster->lock();
    comm = sim->cluster->gin().connect(sim->rank, needs);
  }
  void disconnect() const {
    const Hosts::Lock lock = sim->cluster->lock();
    sim->cluster->gin().disconnect(comm);
  }
  GinArgs args(uint32_t variant) const { return {comm, window, memory, out, variant}; }

  static constexpr size_t kMemoryBytes = (4 * kWords + 2) * sizeof(uint32_t);
  uint32_t* memory;
  uint32_t* out;
  SimComm* sim;
  GinComm comm;
  ncclWindow_t window;
};

// Two nodes of one GPU each: rank 0 runs `first`, rank 1 `second`.
struct Exchange {
  Exchange(uint64_t seed, uint32_t variant, const char* first, const char* second, bool checker)
      : cluster([&] {
          ncclEpSimConfig_t config = ranks(1, seed);
          config.num_nodes = 2;
          config.checker = checker ? NCCL_EP_SIM_SWITCH_ON : NCCL_EP_SIM_SWITCH_OFF;
          return config;
        }()) {
    cluster.run([&](const TestRank& self) {
      const Endpoint endpoint(self);
      self.launch(self.rank == 0 ? first : second, endpoint.args(variant), nullptr, 1, 64);
      (void)self.try_synchronize();
      if (self.rank == 0) first_word = endpoint.out[0];
      if (self.rank == 1) received.assign(endpoint.out, endpoint.out + 2 * kWords);
    });
  }

  bool is_correct() const {
    for (uint32_t i = 0; i < 2 * kWords; ++i) {
      if (received[i] != i + 1) return false;
    }
    return true;
  }

  TestCluster cluster;
  std::vector<uint32_t> received;
  uint32_t first_word = 0;
};

struct Tally {
  uint64_t num_wrong = 0;  // data, without the checker
  uint64_t num_races = 0;
};

Tally run_seeds(uint32_t variant, const char* first, const char* second) {
  Tally tally;
  for (uint64_t seed = 1; seed <= kNumSeeds; ++seed) {
    tally.num_wrong += !Exchange(seed, variant, first, second, false).is_correct();
    tally.num_races += Exchange(seed, variant, first, second, true).cluster.failure() == NCCL_EP_SIM_FAILURE_RACE;
  }
  return tally;
}

}  // namespace

TEST_CASE("sim_network: a strong signal says that all earlier puts have landed") {
  for (const uint32_t variant : {kStrong, kVaSignal}) {
    const Tally tally = run_seeds(variant, "test_gin_send_two", "test_gin_receive_two");
    CHECK(tally.num_wrong == 0);
    CHECK(tally.num_races == 0);
  }
}

TEST_CASE("sim_network: a weak signal, or one of another context, says less") {
  for (const uint32_t variant : {kWeak, kTwoContexts}) {
    const Tally tally = run_seeds(variant, "test_gin_send_two", "test_gin_receive_two");
    CHECK(tally.num_wrong > 0);
    CHECK(tally.num_races == kNumSeeds);
  }
}

TEST_CASE("sim_network: a strong signal covers what its thread knows to have been put") {
  for (const uint32_t handover : {kOrdered, kRelaxed}) {
    const Tally tally = run_seeds(handover, "test_gin_put_and_hand_over", "test_gin_receive_two");
    CHECK(tally.num_wrong == 0);  // without a checker nobody knows what a thread knows
    CHECK(tally.num_races == (handover == kRelaxed ? kNumSeeds : 0));
  }
}

TEST_CASE("sim_network: a source may be overwritten after a flush or its counter, not before") {
  for (const uint32_t variant : {0, 1, 2}) {
    const Tally tally = run_seeds(variant, "test_gin_send_and_overwrite", "test_gin_receive_one");
    CHECK((tally.num_wrong > 0) == (variant == 0));
    CHECK(tally.num_races == (variant == 0 ? kNumSeeds : 0));
  }
}

TEST_CASE("sim_network: a source may be overwritten when the peer says that it has arrived") {
  for (const uint32_t awaits_answer : {0, 1}) {
    const Tally tally = run_seeds(awaits_answer, "test_gin_send_twice", "test_gin_receive_and_answer");
    CHECK(tally.num_races == (awaits_answer ? 0 : kNumSeeds));
  }
}

TEST_CASE("sim_network: values, gets and lone signals arrive, and are counted") {
  for (uint64_t seed = 1; seed <= kNumSeeds; ++seed) {
    const Exchange exchange(seed, 0, "test_gin_get_back", "test_gin_answer", true);
    CHECK_MESSAGE(exchange.cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, exchange.cluster.report());
    CHECK(exchange.first_word == 1234);
    CHECK(exchange.cluster.link(0, 1).gin_puts == 1);
    CHECK(exchange.cluster.link(0, 1).bytes == 4);
    CHECK(exchange.cluster.link(0, 1).gin_gets == 1);
    CHECK(exchange.cluster.link(0, 1).gin_signals == 1);
    CHECK(exchange.cluster.link(1, 0).gin_signals == 1);
  }
}

TEST_CASE("sim_network: who has asked for its rail reaches nobody else") {
  TestCluster cluster(ranks(2));
  cluster.run([](const TestRank& self) {
    const Endpoint endpoint(self, Reach::rail);
    if (self.rank == 0) self.launch("test_gin_get_back", endpoint.args(0), nullptr, 1, 32);
    (void)self.try_synchronize();
  });
  CHECK(cluster.failure() != NCCL_EP_SIM_FAILURE_NONE);
  CHECK(std::string(cluster.report()).find("GIN peer 1 is not on the rail") != std::string::npos);
}

TEST_CASE("sim_network: what a closed network took is given back, whatever is under way") {
  ncclEpSimConfig_t config = ranks(1);
  config.num_nodes = 2;
  config.memory_bytes = 1 << 20;
  config.checker = NCCL_EP_SIM_SWITCH_OFF;  // the puts of one turn may still be under way in the next
  TestCluster cluster(config);
  cluster.run([&](const TestRank& self) {
    Endpoint endpoint(self);
    for (int i = 0; i < 20; ++i) {  // a tenth of the memory each
      CHECK(cluster.usage(self.rank).num_networks == 1);
      if (self.rank == 0) self.launch("test_gin_send_two", endpoint.args(kStrong), nullptr, 1, 64);
      self.synchronize();
      self.barrier();
      endpoint.disconnect();
      CHECK(cluster.usage(self.rank).num_networks == 0);
      endpoint.connect({4, 3000, 8, Reach::world});
      self.barrier();
    }
    self.launch(self.rank == 0 ? "test_gin_send_two" : "test_gin_receive_two", endpoint.args(kStrong), nullptr, 1, 64);
    self.synchronize();
  });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_network: what is sent to a lost node never leaves, which a flush need not wait for") {
  for (const bool is_lost : {false, true}) {
    ncclEpSimConfig_t config = ranks(1);
    config.num_nodes = 2;
    TestCluster cluster(config);
    cluster.run([&](const TestRank& self) {
      const Endpoint endpoint(self);
      self.barrier();
      if (self.rank == 1) return;
      if (is_lost) expect_success(ncclEpSimLoseNode(self.cluster, 1));
      self.launch("test_gin_put_and_flush", endpoint.args(0), nullptr);
      self.synchronize();
      CHECK(endpoint.out[0] == !is_lost);
    });
    CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
  }
}

TEST_CASE("sim_network: what is under way when a node is lost never arrives") {
  ncclEpSimConfig_t config = ranks(1);
  config.num_nodes = 2;
  TestCluster cluster(config);
  expect_success(ncclEpSimDelayRank(cluster.handle(), 0, 1 << 20));
  cluster.run([](const TestRank& self) {
    const Endpoint endpoint(self);
    const GinArgs args = endpoint.args(kStrong);
    if (self.rank == 0) {
      self.launch("test_gin_send_two", args, nullptr);
      self.synchronize();
      expect_success(ncclEpSimLoseNode(self.cluster, 0));
    }
    self.barrier();
    if (self.rank == 0) return;
    self.launch("test_gin_receive_two", args, nullptr);
    CHECK(self.try_synchronize() == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_DEADLOCK);
}

}  // namespace nccl_ep::sim::test

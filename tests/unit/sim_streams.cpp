// SPDX-License-Identifier: Apache-2.0
// Streams, events and graphs of the simulated GPUs: what is ordered is, and what is not shows.
#include "sim_test_cluster.hpp"
#include "sim_test_kernels.hpp"

namespace nccl_ep::sim::test {

namespace {

constexpr uint64_t kNumSeeds = 20;
constexpr uint32_t kCount = 100;

// What kernels in a row have counted up to.
uint32_t count_in_a_row(const TestRank& self, uint32_t num_kernels) {
  auto* array = self.allocate<uint32_t>(kCount);
  self.fill(array, 0, kCount * sizeof(uint32_t), nullptr);
  for (uint32_t i = 0; i < num_kernels; ++i) {
    self.launch("test_count", CountArgs{array, array, kCount}, nullptr, 2, 64);
  }
  self.synchronize();
  return array[kCount - 1];
}

}  // namespace

TEST_CASE("sim_streams: work of a stream is done in order") {
  for (uint64_t seed = 1; seed <= kNumSeeds; ++seed) {
    TestCluster cluster(ranks(2, seed));
    cluster.run([](const TestRank& self) { CHECK(count_in_a_row(self, 5) == 5); });
    CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
  }
}

TEST_CASE("sim_streams: arguments are copied when a kernel is launched") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(1);
    CountArgs args{nullptr, array, 1};
    self.launch("test_count", args, nullptr);
    args = {};
    self.synchronize();
    CHECK(array[0] == 1);
  });
}

TEST_CASE("sim_streams: reading results without synchronizing shows that they are not there") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(1);
    array[0] = 77;
    self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
    CHECK(array[0] == 77);
    self.synchronize();
    CHECK(array[0] == 1);
  });
}

TEST_CASE("sim_streams: an event orders two streams, and without it they race") {
  for (const bool with_event : {true, false}) {
    CAPTURE(with_event);
    uint32_t num_races = 0;
    for (uint64_t seed = 1; seed <= kNumSeeds; ++seed) {
      TestCluster cluster(ranks(1, seed));
      cluster.run([&](const TestRank& self) {
        auto* array = self.allocate<uint32_t>(kCount);
        const cudaStream_t first = self.create_stream(), second = self.create_stream();
        const ncclEpSimEvent_t event = self.create_event();
        self.launch("test_count", CountArgs{nullptr, array, kCount}, first);
        self.record(event, first);
        if (with_event) self.wait_for(second, event);
        self.launch("test_count", CountArgs{array, array, kCount}, second);
        const ncclResult_t result = self.try_synchronize(second);
        if (with_event) CHECK((result == ncclSuccess && array[kCount - 1] == 2));
        (void)self.try_synchronize(first);
      });
      num_races += cluster.failure() == NCCL_EP_SIM_FAILURE_RACE;
    }
    CHECK(num_races == (with_event ? 0 : kNumSeeds));
  }
}

TEST_CASE("sim_streams: a copy races with a kernel on another stream") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(kCount);
    auto* other = self.allocate<uint32_t>(kCount);
    const cudaStream_t second = self.create_stream();
    self.launch("test_count", CountArgs{nullptr, array, kCount}, nullptr);
    self.copy(other, array, kCount * sizeof(uint32_t), second);
    (void)self.try_synchronize(second);
    (void)self.try_synchronize();
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_RACE);
  CHECK(cluster.report().find("memcpy") != std::string::npos);
}

TEST_CASE("sim_streams: a host that polls sees the stream become idle") {
  TestCluster cluster(ranks(2));
  cluster.run([](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(1);
    const ncclEpSimEvent_t event = self.create_event();
    self.launch("test_count", CountArgs{nullptr, array, 1}, nullptr);
    self.record(event, nullptr);
    while (ncclEpSimEventQuery(self.cluster, self.rank, event) == ncclInProgress) {
    }
    CHECK(array[0] == 1);
    ncclResult_t result;
    while ((result = ncclEpSimStreamQuery(self.cluster, self.rank, nullptr)) == ncclInProgress) {
    }
    CHECK(result == ncclSuccess);
  });
}

TEST_CASE("sim_graphs: a captured fork and join replays in its order") {
  TestCluster cluster(ranks(1, 3));
  cluster.run([&](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(3 * kCount);
    uint32_t* left = array + kCount;
    uint32_t* right = array + 2 * kCount;
    const cudaStream_t main = self.create_stream(), side = self.create_stream();
    const ncclEpSimEvent_t fork = self.create_event(), join = self.create_event();

    self.begin_capture(main);
    self.launch("test_count", CountArgs{array, array, kCount}, main);
    self.record(fork, main);
    self.wait_for(side, fork);
    self.launch("test_count", CountArgs{array, left, kCount}, main);
    self.launch("test_count", CountArgs{array, right, kCount}, side);
    self.record(join, side);
    self.wait_for(main, join);
    self.copy(array, right, kCount * sizeof(uint32_t), main);
    const ncclEpSimGraph_t graph = self.end_capture(main);

    self.fill(array, 0, 3 * kCount * sizeof(uint32_t), main);
    for (int replay = 0; replay < 5; ++replay) self.launch_graph(graph, main);
    self.synchronize(main);
    CHECK(array[7] == 10);
    CHECK(left[7] == 10);
    expect_success(ncclEpSimGraphDestroy(self.cluster, self.rank, graph));
  });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_graphs: branches that are not ordered race") {
  TestCluster cluster(ranks(1));
  cluster.run([&](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(kCount);
    const cudaStream_t main = self.create_stream(), side = self.create_stream();
    const ncclEpSimEvent_t fork = self.create_event(), join = self.create_event();
    self.begin_capture(main);
    self.record(fork, main);
    self.wait_for(side, fork);
    self.launch("test_count", CountArgs{nullptr, array, kCount}, main);
    self.launch("test_count", CountArgs{nullptr, array, kCount}, side);
    self.record(join, side);
    self.wait_for(main, join);
    self.launch_graph(self.end_capture(main), main);
    CHECK(self.try_synchronize(main) == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_RACE);
}

TEST_CASE("sim_graphs: misuse of captures is refused") {
  TestCluster cluster(ranks(1));
  cluster.run([&](const TestRank& self) {
    auto* array = self.allocate<uint32_t>(kCount);
    const cudaStream_t main = self.create_stream(), side = self.create_stream();
    const ncclEpSimEvent_t fork = self.create_event();
    ncclEpSimGraph_t graph = nullptr;
    CHECK(ncclEpSimStreamBeginCapture(self.cluster, self.rank, nullptr) == ncclInvalidUsage);
    CHECK(ncclEpSimStreamEndCapture(self.cluster, self.rank, main, &graph) == ncclInvalidUsage);
    self.begin_capture(main);
    CHECK(self.try_synchronize(main) == ncclInvalidUsage);
    self.record(fork, main);
    self.wait_for(side, fork);
    self.launch("test_count", CountArgs{nullptr, array, kCount}, side);
    CHECK(ncclEpSimStreamEndCapture(self.cluster, self.rank, main, &graph) == ncclInvalidUsage);
    CHECK(std::string(ncclEpSimGetLastError()).find("not joined") != std::string::npos);
    CHECK(graph == nullptr);
    self.launch("test_count", CountArgs{nullptr, array, kCount}, side);
    self.synchronize(side);
    CHECK(array[0] == 1);
  });
}

}  // namespace nccl_ep::sim::test

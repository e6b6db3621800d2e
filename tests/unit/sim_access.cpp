// SPDX-License-Identifier: Apache-2.0
// Whose memory a kernel may use: allocated memory of its rank, windows of its LSA team, and host memory that its rank has
// pinned. What a GPU could not reach is a fault here, though it is all memory of one process.
#include <functional>
#include <string>
#include <vector>

#include "sim_test_cluster.hpp"
#include "sim_test_kernels.hpp"

namespace nccl_ep::sim::test {

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Rank 0 of two runs a kernel that writes to where `place` says. Returns the report, "" if there is none.
std::string report_of(const char* kernel, const std::function<uint32_t*(const TestRank&)>& place) {
  std::string report;
  TestCluster cluster(ranks(2));
  cluster.run([&](const TestRank& self) {
    uint32_t* out = place(self);
    if (self.rank == 0) self.launch(kernel, CountArgs{nullptr, out, 1}, nullptr);
    (void)self.try_synchronize();
  });
  const bool is_fault = cluster.failure() == NCCL_EP_SIM_FAILURE_FAULT;
  CHECK(is_fault == (cluster.failure() != NCCL_EP_SIM_FAILURE_NONE));
  if (is_fault) CHECK_MESSAGE(contains(cluster.report(), std::string(kernel) + " on rank 0"), cluster.report());
  return cluster.report();
}

// Through the primitives, and through raw pointers where the compiler's pass shows them.
#if defined(__SANITIZE_ADDRESS__)
constexpr const char* kKernels[] = {"test_count"};
#else
constexpr const char* kKernels[] = {"test_count", "test_count_raw"};
#endif

uint32_t* pinned(const TestRank& self, int rank) {
  void* memory = nullptr;
  expect_success(ncclEpSimHostAlloc(self.cluster, rank, &memory, 4));
  return static_cast<uint32_t*>(memory);
}

}  // namespace

TEST_CASE("sim_access: a kernel may use memory of its rank, windows, and what its rank has pinned") {
  for (const char* kernel : kKernels) {
    CHECK(report_of(kernel, [](const TestRank& self) { return self.allocate<uint32_t>(1); }) == "");
    CHECK(report_of(kernel, [](const TestRank& self) { return pinned(self, self.rank); }) == "");
    const auto window_of_1 = [](const TestRank& self) {
      return self.peer<uint32_t>(self.register_window(self.allocate_symmetric<uint32_t>(1), 4), 1);
    };
    CHECK(report_of(kernel, window_of_1) == "");
  }
}

TEST_CASE("sim_access: memory of the host is none of a GPU's") {
  std::vector<uint32_t> host(8);
  uint32_t on_stack = 0;
  for (const char* kernel : kKernels) {
    const std::string heap = report_of(kernel, [&](const TestRank&) { return host.data(); });
    CHECK_MESSAGE(contains(heap, "(memory of the host), expected device memory of rank 0"), heap);
    const std::string stack = report_of(kernel, [&](const TestRank&) { return &on_stack; });
    CHECK_MESSAGE(contains(stack, "(memory of the host), expected device memory of rank 0"), stack);
    const std::string other = report_of(kernel, [](const TestRank& self) { return pinned(self, 1); });
    CHECK_MESSAGE(contains(other, "expected device memory of rank 0"), other);
    const std::string nowhere = report_of(kernel, [](const TestRank&) { return reinterpret_cast<uint32_t*>(16); });
    CHECK_MESSAGE(contains(nowhere, "a bad access to address 0x10, expected"), nowhere);
  }
  CHECK(on_stack == 0);
}

TEST_CASE("sim_access: freed memory, and what lies behind an allocation, is nobody's") {
  for (const char* kernel : kKernels) {
    const auto freed = [](const TestRank& self) {
      auto* memory = self.allocate<uint32_t>(4);
      expect_success(ncclEpSimFree(self.cluster, self.rank, memory));
      return memory;
    };
    CHECK(contains(report_of(kernel, freed), "expected allocated memory"));
    CHECK(contains(report_of(kernel, [](const TestRank& self) { return self.allocate<uint32_t>(100) + 100; }),
                   "expected allocated memory"));
    CHECK(report_of(kernel, [](const TestRank& self) { return self.allocate<uint32_t>(100) + 99; }) == "");
    const auto freed_host = [](const TestRank& self) {
      uint32_t* memory = pinned(self, self.rank);
      expect_success(ncclEpSimHostFree(self.cluster, self.rank, memory));
      return memory;
    };
    CHECK(contains(report_of(kernel, freed_host), "expected device memory of rank 0"));
  }
}

TEST_CASE("sim_access: what is freed stays with the work that is pending, and windows with the ranks that map them") {
  TestCluster cluster(ranks(2));
  cluster.run([](const TestRank& self) {
    auto* own = self.allocate<uint32_t>(100);
    auto* memory = self.allocate_symmetric<uint32_t>(100);
    auto* peer = self.peer<uint32_t>(self.register_window(memory, 400), 1);
    self.launch("test_count", CountArgs{nullptr, own, 100}, nullptr);
    expect_success(ncclEpSimFree(self.cluster, self.rank, own));
    self.synchronize();
    if (self.rank == 1) expect_success(ncclEpSimMemFree(self.cluster, self.rank, memory));
    self.barrier();
    if (self.rank == 0) self.launch("test_count", CountArgs{nullptr, peer, 100}, nullptr);
    self.synchronize();
  });
  CHECK_MESSAGE(cluster.failure() == NCCL_EP_SIM_FAILURE_NONE, cluster.report());
}

TEST_CASE("sim_access: memory that is given out again is its new owner's when the old one's work is done") {
  TestCluster cluster(ranks(1));
  cluster.run([](const TestRank& self) {
    auto* first = self.allocate<uint32_t>(1000);
    self.launch("test_count", CountArgs{nullptr, first, 1000}, nullptr);
    expect_success(ncclEpSimFree(self.cluster, self.rank, first));
    auto* second = self.allocate<uint32_t>(500);
    CHECK(second == first);
    self.synchronize();
    self.launch("test_count", CountArgs{nullptr, second, 500}, nullptr);
    self.synchronize();  // succeeds
    self.launch("test_count", CountArgs{nullptr, second, 501}, nullptr);
    CHECK(self.try_synchronize() == ncclInternalError);
  });
  CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_FAULT);
}

TEST_CASE("sim_access: another rank's memory is out of reach unless it is a window") {
  uint32_t* of_rank_1 = nullptr;
  const auto others = [&](const TestRank& self) {
    if (self.rank == 1) of_rank_1 = self.allocate<uint32_t>(1);
    self.barrier();
    return of_rank_1;
  };
  for (const char* kernel : kKernels) {
    const std::string report = report_of(kernel, others);
    CHECK_MESSAGE(contains(report, "of ordinary memory) from rank 0, expected its own memory or a window"), report);
  }
}

TEST_CASE("sim_access: a copy or a fill of a graph whose memory is gone is a fault") {
  for (const bool fills : {true, false}) {
    TestCluster cluster(ranks(1));
    cluster.run([=](const TestRank& self) {
      auto* from = self.allocate<uint32_t>(4);
      auto* to = self.allocate<uint32_t>(4);
      const cudaStream_t stream = self.create_stream();
      self.begin_capture(stream);
      if (fills) {
        self.fill(to, 0, 16, stream);
      } else {
        self.copy(to, from, 16, stream);
      }
      const ncclEpSimGraph_t graph = self.end_capture(stream);
      self.launch_graph(graph, stream);
      self.synchronize(stream);
      expect_success(ncclEpSimFree(self.cluster, self.rank, to));
      self.launch_graph(graph, stream);
      CHECK(self.try_synchronize(stream) == ncclInternalError);
    });
    CHECK(cluster.failure() == NCCL_EP_SIM_FAILURE_FAULT);
    CHECK(contains(cluster.report(), fills ? "a memset on a stream of rank 0" : "a memcpy on a stream of rank 0"));
  }
}

}  // namespace nccl_ep::sim::test

// SPDX-License-Identifier: Apache-2.0
// A simulated cluster for tests, through its C API, with a thread for each rank.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "nccl_ep_sim.h"

namespace nccl_ep::sim::test {

// Fails the test with the call's own message. Threads may use it: doctest's checks are thread-safe.
inline void expect_success(ncclResult_t result) {
  CHECK_MESSAGE(result == ncclSuccess, std::string(ncclEpSimGetLastError()));
}

// What one rank's host does, without naming cluster and rank every time.
class TestRank {
 public:
  TestRank(ncclEpSimCluster_t cluster, int rank) : cluster(cluster), rank(rank) {}

  template <class T>
  T* allocate(size_t count) const {
    void* memory = nullptr;
    expect_success(ncclEpSimMalloc(cluster, rank, &memory, count * sizeof(T)));
    return static_cast<T*>(memory);
  }
  template <class T>
  T* allocate_symmetric(size_t count) const {
    void* memory = nullptr;
    expect_success(ncclEpSimMemAlloc(cluster, rank, &memory, count * sizeof(T)));
    return static_cast<T*>(memory);
  }
  ncclWindow_t register_window(void* memory, size_t bytes) const {
    ncclWindow_t window = nullptr;
    expect_success(ncclEpSimWindowRegister(cluster, rank, memory, bytes, &window));
    return window;
  }
  template <class T>
  T* peer(ncclWindow_t window, int other) const {
    void* memory = nullptr;
    expect_success(ncclEpSimWindowPeer(cluster, rank, window, other, &memory));
    return static_cast<T*>(memory);
  }
  cudaStream_t create_stream() const {
    cudaStream_t stream = nullptr;
    expect_success(ncclEpSimStreamCreate(cluster, rank, &stream));
    return stream;
  }
  ncclEpSimEvent_t create_event() const {
    ncclEpSimEvent_t event = nullptr;
    expect_success(ncclEpSimEventCreate(cluster, rank, &event));
    return event;
  }
  void record(ncclEpSimEvent_t event, cudaStream_t stream) const {
    expect_success(ncclEpSimEventRecord(cluster, rank, event, stream));
  }
  void wait_for(cudaStream_t stream, ncclEpSimEvent_t event) const {
    expect_success(ncclEpSimStreamWaitEvent(cluster, rank, stream, event));
  }
  void fill(void* dst, int value, size_t bytes, cudaStream_t stream) const {
    expect_success(ncclEpSimMemsetAsync(cluster, rank, dst, value, bytes, stream));
  }
  void copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) const {
    expect_success(ncclEpSimMemcpyAsync(cluster, rank, dst, src, bytes, stream));
  }
  template <class Args>
  void launch(const char* kernel, const Args& args, cudaStream_t stream, uint32_t num_blocks = 1,
              uint32_t num_threads = 32) const {
    expect_success(ncclEpSimLaunch(cluster, rank, kernel, num_blocks, num_threads, 0, &args, sizeof(args), stream));
  }
  void synchronize(cudaStream_t stream = nullptr) const { expect_success(try_synchronize(stream)); }
  ncclResult_t try_synchronize(cudaStream_t stream = nullptr) const {
    return ncclEpSimStreamSynchronize(cluster, rank, stream);
  }
  void begin_capture(cudaStream_t stream) const { expect_success(ncclEpSimStreamBeginCapture(cluster, rank, stream)); }
  ncclEpSimGraph_t end_capture(cudaStream_t stream) const {
    ncclEpSimGraph_t graph = nullptr;
    expect_success(ncclEpSimStreamEndCapture(cluster, rank, stream, &graph));
    return graph;
  }
  void launch_graph(ncclEpSimGraph_t graph, cudaStream_t stream) const {
    expect_success(ncclEpSimGraphLaunch(cluster, rank, graph, stream));
  }
  void barrier() const { expect_success(ncclEpSimBarrier(cluster, rank)); }

  const ncclEpSimCluster_t cluster;
  const int rank;
};

inline ncclEpSimConfig_t ranks(uint32_t num_ranks, uint64_t seed = 1) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = num_ranks;
  config.memory_bytes = 16 << 20;
  config.seed = seed;
  return config;
}

class TestCluster {
 public:
  explicit TestCluster(const ncclEpSimConfig_t& config) {
    expect_success(ncclEpSimClusterCreate(&handle_, &config));
    REQUIRE(handle_ != nullptr);
    expect_success(ncclEpSimGetConfig(handle_, &config_));
  }
  ~TestCluster() { expect_success(ncclEpSimClusterDestroy(handle_)); }
  TestCluster(const TestCluster&) = delete;
  TestCluster& operator=(const TestCluster&) = delete;

  ncclEpSimCluster_t handle() const { return handle_; }
  const ncclEpSimConfig_t& config() const { return config_; }
  uint32_t num_ranks() const { return config_.num_nodes * config_.gpus_per_node; }

  // Every rank's host in a thread of its own.
  void run(const std::function<void(const TestRank&)>& host) const {
    std::vector<std::thread> threads;
    for (uint32_t index = 0; index < num_ranks(); ++index) {
      threads.emplace_back([this, &host, rank = static_cast<int>(index)] {
        expect_success(ncclEpSimRankEnter(handle_, rank));
        host(TestRank(handle_, rank));
        expect_success(ncclEpSimRankLeave(handle_, rank));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  ncclEpSimFailure_t failure() const {
    ncclEpSimFailure_t kind;
    expect_success(ncclEpSimGetFailure(handle_, &kind, nullptr));
    return kind;
  }
  std::string report() const {
    ncclEpSimFailure_t kind;
    const char* text = nullptr;
    expect_success(ncclEpSimGetFailure(handle_, &kind, &text));
    return text;
  }
  uint64_t hash() const {
    uint64_t hash = 0;
    expect_success(ncclEpSimGetScheduleHash(handle_, &hash));
    return hash;
  }
  ncclEpSimUsage_t usage(int rank) const {
    ncclEpSimUsage_t usage;
    expect_success(ncclEpSimGetUsage(handle_, rank, &usage));
    return usage;
  }
  ncclEpSimLinkCounters_t link(int src, int dst) const {
    ncclEpSimLinkCounters_t counters;
    expect_success(ncclEpSimGetLinkCounters(handle_, src, dst, &counters));
    return counters;
  }

 private:
  ncclEpSimCluster_t handle_ = nullptr;
  ncclEpSimConfig_t config_{};
};

}  // namespace nccl_ep::sim::test

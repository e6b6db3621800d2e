// SPDX-License-Identifier: Apache-2.0
// What a framework has besides nccl_ep.h, for moe_backend.cpp: GPUs, here simulated ones with a thread for each rank, an
// allocator, and tensors.
#pragma once
#ifndef NCCL_EP_OWN_TYPES
#define NCCL_EP_OWN_TYPES  // no CUDA or NCCL headers needed
#endif
#include <nccl_ep.h>
#include <nccl_ep_sim.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

// After a fault no rank can count on the others, which the end of a group does. So the process ends, and nothing is unwound.
[[noreturn]] inline void fail(const char* call, const char* message) {
  std::fprintf(stderr, "%s: %s\n", call, message);
  std::_Exit(1);
}
#define EP(call) ((call) == ncclSuccess ? (void)0 : fail(#call, ncclEpGetLastError(nullptr)))
#define SIM(call) ((call) == ncclSuccess ? (void)0 : fail(#call, ncclEpSimGetLastError()))

// A rank's GPU with a stream. Its allocator keeps what is given back, and gives it to whoever wants as much.
class Gpu {
 public:
  Gpu(ncclEpSimCluster_t cluster, int rank) : rank(rank), cluster_(cluster) {
    SIM(ncclEpSimRankEnter(cluster, rank));
    SIM(ncclEpSimGetComm(cluster, rank, &comm));
    SIM(ncclEpSimStreamCreate(cluster, rank, &stream));
  }
  ~Gpu() {
    if (!used_.empty()) fail("~Gpu", "memory has not been given back");
    for (const auto& kept : kept_) SIM(ncclEpSimFree(cluster_, rank, kept.second));
    SIM(ncclEpSimStreamDestroy(cluster_, rank, stream));
    SIM(ncclEpSimRankLeave(cluster_, rank));
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  void* allocate(size_t bytes) {
    void* memory = nullptr;
    const auto kept = kept_.find(bytes);
    if (kept != kept_.end()) {
      memory = kept->second;
      kept_.erase(kept);
    } else {
      SIM(ncclEpSimMalloc(cluster_, rank, &memory, bytes));
    }
    used_[memory] = bytes;
    return memory;
  }
  void release(void* memory) {
    kept_.emplace(used_.at(memory), memory);
    used_.erase(memory);
  }

  template <class Work>
  ncclEpSimGraph_t capture(Work work) {
    ncclEpSimGraph_t graph = nullptr;
    SIM(ncclEpSimStreamBeginCapture(cluster_, rank, stream));
    work();
    SIM(ncclEpSimStreamEndCapture(cluster_, rank, stream, &graph));
    return graph;
  }
  void launch(ncclEpSimGraph_t graph) { SIM(ncclEpSimGraphLaunch(cluster_, rank, graph, stream)); }
  void destroy(ncclEpSimGraph_t graph) { SIM(ncclEpSimGraphDestroy(cluster_, rank, graph)); }
  bool is_idle() {
    const ncclResult_t result = ncclEpSimStreamQuery(cluster_, rank, stream);
    if (result != ncclInProgress) SIM(result);
    return result == ncclSuccess;
  }
  void wait_for_all_ranks() { SIM(ncclEpSimBarrier(cluster_, rank)); }

  const int rank;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;

 private:
  ncclEpSimCluster_t cluster_;
  std::map<void*, size_t> used_;
  std::multimap<size_t, void*> kept_;
};

// A tensor and what describes it to the library. Simulated device memory is read and written where it is, while no work on
// it is pending.
template <class T>
class Tensor {
 public:
  Tensor(Gpu& gpu, ncclDataType_t datatype, std::vector<size_t> sizes) : gpu_(gpu), sizes_(std::move(sizes)) {
    size_t bytes = sizeof(T);
    for (const size_t size : sizes_) bytes *= size;
    ep_.ndim = static_cast<unsigned>(sizes_.size());
    ep_.datatype = datatype;
    ep_.sizes = sizes_.data();
    ep_.data = gpu.allocate(bytes);
  }
  ~Tensor() { gpu_.release(ep_.data); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  ncclEpTensor_t* ep() { return &ep_; }
  T& operator[](size_t i) { return static_cast<T*>(ep_.data)[i]; }

 private:
  Gpu& gpu_;
  std::vector<size_t> sizes_;
  ncclEpTensor_t ep_ = NCCL_EP_TENSOR_INIT;
};

// Runs `body` for each rank of a new cluster of so many GPUs.
inline void run_on_gpus(int num_ranks, const std::function<void(Gpu&)>& body) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = static_cast<uint32_t>(num_ranks);
  ncclEpSimCluster_t cluster = nullptr;
  SIM(ncclEpSimClusterCreate(&cluster, &config));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([=] {
      Gpu gpu(cluster, rank);
      body(gpu);
    });
  }
  for (std::thread& thread : threads) thread.join();
  SIM(ncclEpSimClusterDestroy(cluster));
}

// SPDX-License-Identifier: Apache-2.0
// nccl_ep_sim.h: looks up the handles, calls, and turns failures into codes; nothing else.
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "nccl_ep_sim.h"
#include "runtime/error.hpp"
#include "sim/cluster.hpp"
#include "sim/communicator.hpp"
#include "sim/device.hpp"

#define NCCL_EP_SIM_API extern "C" __attribute__((visibility("default")))

struct ncclEpSimCluster {
  std::shared_ptr<nccl_ep::sim::Cluster> cluster;
};

namespace {

using nccl_ep::Error;
using nccl_ep::sim::Cluster;
using nccl_ep::sim::Event;
using nccl_ep::sim::GraphHandle;
using nccl_ep::sim::GraphWork;
using nccl_ep::sim::Hosts;
using nccl_ep::sim::Memory;
using nccl_ep::sim::Rank;
using nccl_ep::sim::SimCommunicator;
using nccl_ep::sim::SimDevice;
using nccl_ep::sim::Stream;

thread_local std::string last_error;

ncclResult_t fail(ncclResult_t code, const char* function, const char* message) noexcept {
  try {
    last_error = std::string(function) + ": " + message;
  } catch (...) {
    last_error.clear();
  }
  return code;
}

// Runs `body`, which may return a code of its own.
template <class Body>
ncclResult_t guarded(const char* function, Body&& body) noexcept {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return ncclSuccess;
    } else {
      return body();
    }
  } catch (const Error& error) {
    return fail(error.code(), function, error.what());
  } catch (const std::bad_alloc&) {
    return fail(ncclSystemError, function, "out of host memory");
  } catch (const std::exception& error) {
    return fail(ncclInternalError, function, error.what());
  }
}

template <class T>
T& given(T* out, const char* name) {
  if (out == nullptr) throw Error(ncclInvalidArgument, std::string(name) + " is NULL, expected a place for the result");
  return *out;
}

std::shared_ptr<Cluster>& open(ncclEpSimCluster_t cluster) {
  if (cluster == nullptr) throw Error(ncclInvalidArgument, "cluster is NULL");
  cluster->cluster->check_process();
  return cluster->cluster;
}

// One rank of a cluster, with the cluster's lock held.
struct LockedRank {
  LockedRank(ncclEpSimCluster_t handle, int index)
      : cluster(*open(handle)), lock(cluster.lock()), rank(cluster.rank(index)) {}

  Cluster& cluster;
  Hosts::Lock lock;
  Rank& rank;
};

uint32_t checked(ncclEpSimCluster_t cluster, int rank) { return LockedRank(cluster, rank).rank.index; }

SimDevice device(ncclEpSimCluster_t cluster, int rank) { return SimDevice(open(cluster), checked(cluster, rank)); }

SimCommunicator communicator(ncclEpSimCluster_t cluster, int rank) {
  return SimCommunicator(open(cluster), checked(cluster, rank));
}

void release(LockedRank& self, void* memory, Memory::Zone zone, const std::string& allocator) {
  if (memory == nullptr) return;
  if (!self.rank.owns(memory, zone)) {
    throw Error(ncclInvalidArgument,
                "memory does not come from " + allocator + " on rank " + std::to_string(self.rank.index));
  }
  self.cluster.release(self.rank, memory);
}

template <class Object>
auto handle_of(Object* object) {
  if constexpr (std::is_same_v<Object, Stream>) return reinterpret_cast<cudaStream_t>(object);
  if constexpr (std::is_same_v<Object, Event>) return reinterpret_cast<ncclEpSimEvent_t>(object);
  if constexpr (std::is_same_v<Object, GraphHandle>) return reinterpret_cast<ncclEpSimGraph_t>(object);
}

}  // namespace

NCCL_EP_SIM_API const char* ncclEpSimGetLastError(void) { return last_error.c_str(); }

// ---- The cluster

NCCL_EP_SIM_API ncclResult_t ncclEpSimClusterCreate(ncclEpSimCluster_t* cluster, const ncclEpSimConfig_t* config) {
  return guarded(__func__, [&] {
    given(cluster, "cluster") = nullptr;
    *cluster = new ncclEpSimCluster{std::make_shared<Cluster>(nccl_ep::sim::resolve(config))};
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimClusterDestroy(ncclEpSimCluster_t cluster) {
  return guarded(__func__, [&] {
    if (cluster == nullptr) return;
    Cluster& own = *open(cluster);
    {
      const Hosts::Lock lock = own.lock();
      if (own.hosts().anyone_inside()) {
        throw Error(ncclInvalidUsage, "some ranks have not left the cluster:\n" + own.hosts().describe());
      }
    }
    delete cluster;
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetConfig(ncclEpSimCluster_t cluster, ncclEpSimConfig_t* config) {
  return guarded(__func__, [&] { given(config, "config") = open(cluster)->config(); });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetComm(ncclEpSimCluster_t cluster, int rank, ncclComm_t* comm) {
  return guarded(__func__, [&] {
    given(comm, "comm") = nullptr;
    *comm = reinterpret_cast<ncclComm_t>(
        static_cast<nccl_ep::runtime::ForeignCommunicator*>(&LockedRank(cluster, rank).rank.comm));
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimRankEnter(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.hosts().enter(self.lock, self.rank.index);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimRankLeave(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.hosts().leave(self.rank.index);
  });
}

// ---- Memory

NCCL_EP_SIM_API ncclResult_t ncclEpSimMalloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes) {
  return guarded(__func__, [&] {
    given(memory, "memory") = nullptr;
    LockedRank self(cluster, rank);
    *memory = self.cluster.allocate(self.rank, {bytes}, Memory::Zone::ordinary);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimFree(ncclEpSimCluster_t cluster, int rank, void* memory) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    release(self, memory, Memory::Zone::ordinary, "ncclEpSimMalloc");
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimMemAlloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes) {
  return guarded(__func__, [&] {
    given(memory, "memory") = nullptr;
    LockedRank self(cluster, rank);
    *memory = self.cluster.allocate(self.rank, {bytes}, Memory::Zone::symmetric);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimMemFree(ncclEpSimCluster_t cluster, int rank, void* memory) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    release(self, memory, Memory::Zone::symmetric, "ncclEpSimMemAlloc");
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimHostAlloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes) {
  return guarded(__func__, [&] {
    given(memory, "memory") = nullptr;
    *memory = LockedRank(cluster, rank).rank.allocate_host(bytes);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimHostFree(ncclEpSimCluster_t cluster, int rank, void* memory) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    if (memory != nullptr && !self.rank.release_host(memory)) {
      throw Error(ncclInvalidArgument, "memory does not come from ncclEpSimHostAlloc on rank " + std::to_string(rank));
    }
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimElasticAlloc(ncclEpSimCluster_t cluster, int rank, void** memory,
                                                   size_t* gpu_bytes, size_t* host_bytes) {
  return guarded(__func__, [&] {
    given(memory, "memory") = nullptr;
    *memory = device(cluster, rank).allocate_elastic(given(gpu_bytes, "gpu_bytes"), given(host_bytes, "host_bytes"));
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimWindowRegister(ncclEpSimCluster_t cluster, int rank, void* memory, size_t bytes,
                                                     ncclWindow_t* window) {
  return guarded(__func__, [&] {
    given(window, "window") = nullptr;
    *window = communicator(cluster, rank).register_window(memory, bytes);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimWindowDeregister(ncclEpSimCluster_t cluster, int rank, ncclWindow_t window) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.rank.window(window);
    self.rank.windows.take(window);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimWindowPeer(ncclEpSimCluster_t cluster, int rank, ncclWindow_t window, int peer,
                                                 void** memory) {
  return guarded(__func__, [&] {
    given(memory, "memory") = nullptr;
    LockedRank self(cluster, rank);
    const uint32_t other = self.cluster.rank(peer).index;
    if (!self.cluster.topology().share_lsa_team(self.rank.index, other)) {
      throw Error(ncclInvalidUsage, "peer is " + std::to_string(peer) + ", expected a rank of rank " +
                                        std::to_string(rank) + "'s LSA team");
    }
    *memory = self.rank.window(window).memory[other];
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetUsage(ncclEpSimCluster_t cluster, int rank, ncclEpSimUsage_t* usage) {
  return guarded(__func__, [&] { given(usage, "usage") = LockedRank(cluster, rank).rank.usage(); });
}

// ---- Streams, events, graphs

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamCreate(ncclEpSimCluster_t cluster, int rank, cudaStream_t* stream) {
  return guarded(__func__, [&] {
    given(stream, "stream") = nullptr;
    *stream = handle_of(LockedRank(cluster, rank).rank.create_stream());
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamDestroy(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream) {
  return guarded(__func__, [&] { LockedRank(cluster, rank).rank.destroy_stream(stream); });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamSynchronize(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream) {
  return guarded(__func__, [&] { device(cluster, rank).synchronize(stream); });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamQuery(ncclEpSimCluster_t cluster, int rank, cudaStream_t handle) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    Stream& stream = self.rank.stream(handle);
    self.cluster.yield(self.lock, self.rank, [&stream] { return stream.is_idle(); });
    if (!stream.is_idle()) return ncclInProgress;
    self.rank.host.learn(stream.knowledge);
    return ncclSuccess;
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimDeviceSynchronize(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    Rank& waiting = self.rank;
    self.cluster.wait(self.lock, waiting, "all its streams", [&waiting] { return waiting.is_idle(); });
    waiting.learn_from_streams();
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimMemcpyAsync(ncclEpSimCluster_t cluster, int rank, void* dst, const void* src,
                                                  size_t bytes, cudaStream_t stream) {
  return guarded(__func__, [&] { device(cluster, rank).copy(dst, src, bytes, stream); });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimMemsetAsync(ncclEpSimCluster_t cluster, int rank, void* dst, int value,
                                                  size_t bytes, cudaStream_t stream) {
  return guarded(__func__, [&] { device(cluster, rank).fill(dst, static_cast<uint8_t>(value), bytes, stream); });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimLaunch(ncclEpSimCluster_t cluster, int rank, const char* kernel,
                                             uint32_t num_blocks, uint32_t num_threads, size_t shared_bytes,
                                             const void* args, size_t args_bytes, cudaStream_t stream) {
  return guarded(__func__, [&] {
    SimDevice gpu = device(cluster, rank);
    if (kernel == nullptr) throw Error(ncclInvalidArgument, "kernel is NULL, expected its name");
    nccl_ep::runtime::Kernel* entry = gpu.builtin_kernel(kernel);
    if (entry == nullptr) throw Error(ncclInvalidArgument, std::string("no kernel is called ") + kernel);
    gpu.launch(entry, {num_blocks, num_threads, shared_bytes}, args, args_bytes, stream);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimEventCreate(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t* event) {
  return guarded(__func__, [&] {
    given(event, "event") = nullptr;
    *event = handle_of(LockedRank(cluster, rank).rank.events.add(std::make_unique<Event>()));
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimEventDestroy(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.rank.event(event);
    self.rank.events.take(event);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimEventRecord(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event,
                                                  cudaStream_t stream) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.begin_work(self.rank);
    record(self.rank.event(event), self.rank.stream(stream), self.rank.host);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamWaitEvent(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream,
                                                      ncclEpSimEvent_t event) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.begin_work(self.rank);
    wait_for(self.rank.event(event), self.rank.stream(stream), self.rank.host);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimEventSynchronize(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t handle) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    const auto record = self.rank.event(handle).awaitable_record();
    if (record == nullptr) return;
    self.cluster.wait(self.lock, self.rank, "an event", [record] { return record->reached; });
    self.rank.host.learn(record->knowledge);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimEventQuery(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t handle) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    const auto record = self.rank.event(handle).awaitable_record();
    if (record == nullptr) return ncclSuccess;
    self.cluster.yield(self.lock, self.rank, [record] { return record->reached; });
    if (!record->reached) return ncclInProgress;
    self.rank.host.learn(record->knowledge);
    return ncclSuccess;
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamBeginCapture(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    if (stream == nullptr) throw Error(ncclInvalidUsage, "the default stream cannot be captured");
    begin_capture(self.rank.stream(stream));
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStreamEndCapture(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream,
                                                       ncclEpSimGraph_t* graph) {
  return guarded(__func__, [&] {
    given(graph, "graph") = nullptr;
    LockedRank self(cluster, rank);
    auto captured = std::make_unique<GraphHandle>(GraphHandle{end_capture(self.rank.stream(stream))});
    *graph = handle_of(self.rank.graphs.add(std::move(captured)));
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGraphLaunch(ncclEpSimCluster_t cluster, int rank, ncclEpSimGraph_t graph,
                                                  cudaStream_t stream) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.begin_work(self.rank);
    put(self.rank.stream(stream), GraphWork{self.rank.graph(graph)}, self.rank.host);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGraphDestroy(ncclEpSimCluster_t cluster, int rank, ncclEpSimGraph_t graph) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.rank.graph(graph);
    self.rank.graphs.take(graph);
  });
}

// ---- Between the ranks' hosts

NCCL_EP_SIM_API ncclResult_t ncclEpSimBarrier(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.gather(self.lock, self.rank, "ncclEpSimBarrier", {});
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimAllGather(ncclEpSimCluster_t cluster, int rank, const void* in, void* out,
                                                size_t bytes) {
  return guarded(__func__, [&] {
    if (bytes > 0 && (in == nullptr || out == nullptr)) {
      throw Error(ncclInvalidArgument, std::string(in == nullptr ? "in" : "out") + " is NULL");
    }
    communicator(cluster, rank).all_gather(in, out, bytes);
  });
}

// ---- What happened

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetLinkCounters(ncclEpSimCluster_t cluster, int src, int dst,
                                                      ncclEpSimLinkCounters_t* counters) {
  return guarded(__func__, [&] {
    LockedRank from(cluster, src);
    given(counters, "counters") = from.cluster.counters().link(from.rank.index, from.cluster.rank(dst).index);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimResetCounters(ncclEpSimCluster_t cluster) {
  return guarded(__func__, [&] {
    const Hosts::Lock lock = open(cluster)->lock();
    open(cluster)->counters().reset();
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetFailure(ncclEpSimCluster_t cluster, ncclEpSimFailure_t* failure,
                                                 const char** report) {
  return guarded(__func__, [&] {
    const Hosts::Lock lock = open(cluster)->lock();
    given(failure, "failure") = open(cluster)->failure().kind;
    if (report != nullptr) *report = open(cluster)->failure().report.c_str();
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetScheduleHash(ncclEpSimCluster_t cluster, uint64_t* hash) {
  return guarded(__func__, [&] {
    const Hosts::Lock lock = open(cluster)->lock();
    given(hash, "hash") = open(cluster)->schedule_hash();
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimGetClock(ncclEpSimCluster_t cluster, uint64_t* ns) {
  return guarded(__func__, [&] {
    const Hosts::Lock lock = open(cluster)->lock();
    given(ns, "ns") = open(cluster)->executor().clock_ns();
  });
}

// ---- Faults to inject

NCCL_EP_SIM_API ncclResult_t ncclEpSimSilenceRank(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.set_silent(self.rank.index, true);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimSilenceRankAfter(ncclEpSimCluster_t cluster, int rank, uint64_t steps) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.silence_after(self.rank.index, steps);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimWakeRank(ncclEpSimCluster_t cluster, int rank) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.wake(self.rank.index);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimWakeRankAfter(ncclEpSimCluster_t cluster, int rank, uint64_t steps) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.wake_after(self.rank.index, steps);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimStopWarpsAfter(ncclEpSimCluster_t cluster, int rank, uint32_t first_block,
                                                     uint32_t first_warp, uint64_t steps) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.stop_warps_after(self.rank.index, first_block, first_warp, steps);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimDelayRank(ncclEpSimCluster_t cluster, int rank, uint64_t steps) {
  return guarded(__func__, [&] {
    LockedRank self(cluster, rank);
    self.cluster.engine().set_delay(self.rank.index, steps);
  });
}

NCCL_EP_SIM_API ncclResult_t ncclEpSimLoseNode(ncclEpSimCluster_t cluster, int node) {
  return guarded(__func__, [&] {
    const Hosts::Lock lock = open(cluster)->lock();
    open(cluster)->lose_node(node);
  });
}

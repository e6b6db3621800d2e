// SPDX-License-Identifier: Apache-2.0
// What belongs to one rank: its streams, events, graphs, windows and memory. Handles of the C API point at
// these objects; a handle is looked up before it is used. All functions are called under the cluster's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nccl_ep_sim.h"
#include "runtime/runtime.hpp"
#include "sim/checker.hpp"
#include "sim/memory.hpp"
#include "sim/stream.hpp"
#include "sim/work.hpp"

namespace nccl_ep::sim {

class Cluster;

// A window as its rank sees it.
struct Window {
  std::vector<std::byte*> memory;  // of every rank
  std::vector<size_t> bytes;       // of every rank
  PeerWindow peers;                // the LSA team's memory
};

struct GraphHandle {
  std::shared_ptr<const Graph> graph;
};

// What a simulated ncclComm_t points at.
struct SimComm : runtime::ForeignCommunicator {
  Cluster* cluster = nullptr;
  uint32_t rank = 0;
};

// Objects of one kind, found by their address.
template <class T>
class Owned {
 public:
  T* add(std::unique_ptr<T> object) {
    objects_.push_back(std::move(object));
    return objects_.back().get();
  }
  // Null if it is not one of them.
  T* find(const void* handle) const {
    for (const auto& object : objects_) {
      if (object.get() == handle) return object.get();
    }
    return nullptr;
  }
  std::unique_ptr<T> take(const void* handle) {
    for (auto object = objects_.begin(); object != objects_.end(); ++object) {
      if (object->get() != handle) continue;
      std::unique_ptr<T> taken = std::move(*object);
      objects_.erase(object);
      return taken;
    }
    return nullptr;
  }
  const std::vector<std::unique_ptr<T>>& all() const { return objects_; }

 private:
  std::vector<std::unique_ptr<T>> objects_;
};

struct DeviceAllocation {
  MemoryBytes bytes;
  Memory::Zone zone;
};

// Pinned memory of the host.
class HostAllocation {
 public:
  HostAllocation(Memory& memory, uint32_t rank, size_t bytes);
  ~HostAllocation();
  HostAllocation(const HostAllocation&) = delete;
  HostAllocation& operator=(const HostAllocation&) = delete;

  void* begin() const { return begin_; }
  size_t bytes() const { return bytes_; }

 private:
  Memory& memory_;
  uint32_t rank_;
  size_t bytes_;
  void* begin_;
};

struct Rank {
  Rank(uint32_t index, Memory& memory);

  // Null names the default stream.
  Stream& stream(cudaStream_t handle);
  Event& event(const void* handle);
  Window& window(ncclWindow_t handle);
  const std::shared_ptr<const Graph>& graph(const void* handle);

  Stream* create_stream();
  void destroy_stream(cudaStream_t handle);
  // All of them, the dying ones included, in the order of their creation.
  std::vector<Stream*> all_streams();
  // What was given back while work was pending, which may use it, goes when it is done: streams and memory.
  void collect_idle();
  bool is_idle();
  void learn_from_streams();

  // CUDA gives and takes no memory while a stream is captured. The library's own device memory goes by that: the first
  // throws, the second, since nobody sees it fail, spoils the capture.
  void check_may_allocate();
  void spoil_captures_by_release();

  void* allocate_host(size_t bytes);
  bool release_host(const void* memory);  // false: there is no such memory
  bool owns(const void* memory, Memory::Zone zone) const;
  ncclEpSimUsage_t usage() const;

  const uint32_t index;
  SimComm comm;
  Stream default_stream;
  Owned<Stream> streams;
  Owned<Stream> dying_streams;
  Owned<Event> events;
  Owned<GraphHandle> graphs;
  Owned<Window> windows;
  std::map<const void*, DeviceAllocation> device_memory;
  std::map<const void*, std::unique_ptr<HostAllocation>> host_memory;
  std::vector<std::unique_ptr<HostAllocation>> dying_host_memory;
  uint32_t num_networks = 0;   // that are open
  check::Knowledge host;       // what the host's calls know
  uint32_t num_polls = 0;      // in a row, with no work put on the GPU in between
  std::shared_ptr<bool> poll;  // a host that polls waits until the GPUs have moved and set this

 private:
  Memory& memory_;
  uint32_t num_streams_created_ = 0;
};

}  // namespace nccl_ep::sim

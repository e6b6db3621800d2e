// SPDX-License-Identifier: Apache-2.0
// Finds threads that spin, and lets them rest until something is written where they look.
//
// A thread that has read the same values at the same few addresses several times, and done nothing else, learns
// nothing from reading on. It is parked there; a store, an atomic or an engine's write at one of them wakes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace nccl_ep::sim {

class GpuThread;

// One address that a thread looks at.
struct PolledPlace {
  uintptr_t address = 0;
  uint64_t value = 0;
  uint32_t bytes = 0;
  uint32_t repeats = 0;  // of the same value, with nothing new in between

  // Of those parked at the same sixteen bytes.
  bool linked = false;
  GpuThread* thread = nullptr;
  PolledPlace* previous = nullptr;
  PolledPlace* next = nullptr;
};

// What one thread looks at.
struct Polling {
  static constexpr uint32_t kMaxPlaces = 4;

  PolledPlace places[kMaxPlaces];
  uint32_t num_places = 0;
  uint32_t oldest = 0;
  uint32_t idle_reads = 0;  // of any address, since the thread did something else

  bool parked = false;
  GpuThread* previous_parked = nullptr;
  GpuThread* next_parked = nullptr;

  // The thread has done something that others may react to.
  void forget();
  // What has been read differs from the last time, or may do so the next time, or the thread should rest.
  enum class Reading { changed, unchanged, idle };
  Reading note(uintptr_t address, uint32_t bytes, uint64_t value);
  // The thread waits without reading anything. True: it should rest.
  bool note_pause();
};

// All parked threads of a cluster.
class ParkedThreads {
 public:
  void park(GpuThread& thread);
  // Takes out and returns, in the order in which they were parked, those that look at [begin, begin + bytes).
  const std::vector<GpuThread*>& take(uintptr_t begin, size_t bytes);
  const std::vector<GpuThread*>& take_all();
  bool empty() const { return first_ == nullptr; }

 private:
  struct Queue {
    PolledPlace* first = nullptr;
    PolledPlace* last = nullptr;
  };

  void link(GpuThread& thread, PolledPlace& place);
  void unlink(PolledPlace& place);
  void release(GpuThread& thread);
  void take_at(uintptr_t granule, uintptr_t begin, uintptr_t end);

  std::unordered_map<uintptr_t, Queue> queues_;  // by address / 16; never empty
  GpuThread* first_ = nullptr;
  GpuThread* last_ = nullptr;
  std::vector<GpuThread*> taken_;
};

}  // namespace nccl_ep::sim

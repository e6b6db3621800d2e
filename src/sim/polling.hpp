// SPDX-License-Identifier: Apache-2.0
// Finds threads that spin, and lets them rest until something is written where they look.
//
// A thread that has read the same values at the same few addresses several times, and done nothing else, learns
// nothing from reading on. It is parked there; a store, an atomic or an engine's write at one of them wakes it. Lanes
// that meet between two looks at a place wait for one another, so they rest and wake together: in the meeting, once all
// have come round without news for any of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace nccl_ep::sim {

struct Warp;
class GpuThread;

// Who is parked: a thread alone, or the lanes of a warp together.
struct Sleeper {
  Warp* warp = nullptr;
  uint32_t lanes = 0;  // 0: it is not parked
  Sleeper* previous = nullptr;
  Sleeper* next = nullptr;
};

struct WokenLanes {
  Warp* warp;
  uint32_t lanes;
};

// One address that a thread looks at.
struct PolledPlace {
  uintptr_t address = 0;  // 0: it lets time pass
  uint32_t bytes = 0;
  const char* what = nullptr;  // a literal before the address: "polls"
  uint64_t value = 0;
  uint32_t repeats = 0;  // of the same value, with nothing new for this thread in between, nor a meeting
  uint32_t rounds = 0;   // the same with meetings, looks at other places, and nothing new for any lane
  uint32_t meeting = 0;  // the warp's number of meetings at the last look

  // Of those parked at the same line of memory.
  Sleeper* sleeper = nullptr;  // null: not linked
  PolledPlace* previous = nullptr;
  PolledPlace* next = nullptr;

  // The value that is there now; of more than eight bytes, a digest of it.
  uint64_t read() const;
};

// What the lanes of a warp have in common.
struct WarpPolling {
  uint32_t num_meetings = 0;
  uint32_t news_meeting = 0;  // num_meetings when a lane last learnt or did something
  bool came_round = false;    // since then a lane has looked at a place often enough
  Sleeper sleeper;

  void note_news() {
    news_meeting = num_meetings;
    came_round = false;
  }
};

// What one thread looks at.
struct Polling {
  static constexpr uint32_t kMaxPlaces = 8;

  PolledPlace places[kMaxPlaces];
  uint32_t num_places = 0;
  uint32_t oldest = 0;
  uint32_t latest = 0;          // the place of the last look
  uint32_t looks_in_a_row = 0;  // at it, with meetings in between, and with nothing new for any lane
  uint32_t idle_reads = 0;      // of any address, since the thread did something else
  Sleeper sleeper;

  // The thread has done something that others may react to.
  void forget();
  // What has been read differs from the last time, or may do so the next time, or the thread should rest.
  enum class Reading { changed, unchanged, idle };
  Reading note(const void* address, uint32_t bytes, const char* what, WarpPolling& warp);
};

// All parked threads of a cluster.
class ParkedThreads {
 public:
  // False: there is something new where they look, so they stay awake.
  bool park(GpuThread& thread);
  bool park(Warp& warp, uint32_t lanes);
  // Takes out and returns, in the order in which they were parked, those that look at [begin, begin + bytes).
  const std::vector<WokenLanes>& take(uintptr_t begin, size_t bytes);
  const std::vector<WokenLanes>& take_all();
  bool empty() const { return first_ == nullptr; }

 private:
  struct Queue {
    PolledPlace* first = nullptr;
    PolledPlace* last = nullptr;
  };

  void add(Sleeper& sleeper, Warp& warp, uint32_t lanes);
  void link(Sleeper& sleeper, PolledPlace& place);
  void unlink(PolledPlace& place);
  void release(Sleeper& sleeper);
  void take_at(uintptr_t line, uintptr_t begin, uintptr_t end);

  std::unordered_map<uintptr_t, Queue> queues_;  // by address / kLineBytes; never empty
  Sleeper* first_ = nullptr;
  Sleeper* last_ = nullptr;
  std::vector<WokenLanes> taken_;
  std::vector<Sleeper*> found_;
};

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// Running kernels: grids of blocks of warps of threads, and what each of them waits for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "device/sim.hpp"
#include "sim/checker.hpp"
#include "sim/fiber.hpp"
#include "sim/kernel_registry.hpp"
#include "sim/polling.hpp"
#include "sim/store_buffer.hpp"

namespace nccl_ep::sim {

struct Warp;
struct Block;
struct Grid;

constexpr uint32_t kWarpSize = 32;

// What keeps a thread from running, for reports. Literals that complete "waits for", or "polls" with an address.
struct Wait {
  const char* what = nullptr;
  uint32_t number = 0;  // of a barrier
  check::Pc pc = 0;
};

// Bulk stores that were committed together.
struct BulkGroup {
  uint32_t num_unread = 0;
  uint32_t num_unfinished = 0;
  bool reads_learned = false;
  std::vector<check::Operation*> operations;  // empty without a checker
};

class GpuThread {
 public:
  device::Identity identity;
  Fiber fiber;
  std::byte* stack = nullptr;
  Warp* warp = nullptr;
  check::Thread* checked = nullptr;  // null without a checker
  uint64_t serial = 0;               // unlike any other thread's of the cluster
  bool done = false;

  Wait wait;
  Polling polling;
  StoreList stores;                  // to other ranks, not yet performed
  std::list<BulkGroup> bulk_groups;  // oldest first; the last is open while `bulk_group_open`
  bool bulk_group_open = false;
  bool awaits_bulk = false;

  uint32_t lane() const { return identity.thread % kWarpSize; }
  uint32_t lane_bit() const { return 1u << lane(); }
  bool is_runnable() const;
};

// Lanes that have come to a collective, and what they brought.
struct WarpMeeting {
  device::Meeting what = device::Meeting::sync;
  uint32_t arrived = 0;
  uint64_t value[kWarpSize];     // of lines: the address
  uint32_t argument[kWarpSize];  // of lines: whether the lane is active
  device::Bits unit[kWarpSize];
  uint64_t result[kWarpSize];  // of the meeting before, until its lanes have fetched it; loaded units as well
};

struct Warp {
  Block* block = nullptr;
  uint32_t index = 0;
  uint32_t live = 0;      // lanes that have not exited
  uint32_t runnable = 0;  // lanes that could go on
  WarpMeeting meeting;
  WarpPolling polling;
  StoreList stores;  // of the lanes up to their last sync_warp
  GpuThread threads[kWarpSize];

  // The scheduler's.
  uint32_t starved = 0;
  enum class Queue : uint8_t { none, favoured, starved } queue = Queue::none;
  uint32_t queue_position = 0;
  uint32_t live_position = 0;
};

inline bool GpuThread::is_runnable() const { return (warp->runnable & lane_bit()) != 0; }

struct BlockBarrier {
  uint32_t num_expected = 0;  // 0: nobody has come
  uint32_t num_arrived = 0;
  std::vector<GpuThread*> waiting;
  check::Knowledge brought;  // by those who arrived and went on: what they do next is not part of it
  bool all = true;           // of those who arrived have said so
};

// An mbarrier. The word in shared memory says which of the block's it is.
struct MbarrierState {
  dev::Mbarrier* address = nullptr;  // null: invalidated
  uint32_t num_arrivals = 0;         // of each phase
  uint32_t num_pending = 0;          // arrivals of this phase to come
  int64_t pending_bytes = 0;
  uint64_t phase = 0;  // the one that is not yet complete
};

struct SharedArray {
  uint32_t id;
  std::byte* memory;
};

struct Block {
  Grid* grid = nullptr;
  uint32_t index = 0;
  uint32_t num_live = 0;
  uint32_t sm = 0;
  uint32_t shared_slot = 0;
  std::byte* shared = nullptr;
  size_t shared_used = 0;          // of the slot, padding included
  size_t static_shared_bytes = 0;  // as a GPU would lay the arrays out
  std::vector<SharedArray> shared_arrays;
  std::vector<MbarrierState> mbarriers;
  uint32_t bulk_loads_in_flight = 0;
  BlockBarrier barriers[16];  // number 0 is sync_block's
  bool all = true;            // what number 0 has come to last, until its threads have fetched it
  StoreList stores;           // of the threads up to the last barrier
  uint32_t num_warps = 0;
  std::unique_ptr<Warp[]> warps;
};

struct Grid {
  const KernelEntry* kernel = nullptr;
  uint32_t rank = 0;
  uint32_t num_blocks = 0;
  uint32_t num_threads = 0;  // of a block
  size_t shared_bytes = 0;
  std::vector<std::byte> args;
  check::Grid* checked = nullptr;
  check::Knowledge* knowledge = nullptr;
  std::function<void()> done;

  std::vector<std::unique_ptr<Block>> blocks;  // those that have started, the finished ones included
  uint32_t num_blocks_done = 0;
  uint32_t bulk_stores_in_flight = 0;
  std::vector<check::Operation*> unlearned_operations;  // bulk stores that no thread waited for
};

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// The life of a grid: its blocks start as SMs have room for them, and what they leave behind is tidied up.
#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/error.hpp"
#include "sim/executor_state.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace nccl_ep::sim {

namespace {

constexpr uint32_t kMaxThreadsPerSm = 2048;
constexpr uint32_t kMaxBlocksPerSm = 32;
constexpr size_t kMaxArgsBytes = 4096;

void run_thread(void* argument) {
  const auto& thread = *static_cast<const GpuThread*>(argument);
  const Grid& grid = *thread.warp->block->grid;
  grid.kernel->function(grid.args.data());
  running_state->exit_thread();
}

[[noreturn]] void reject(const KernelEntry& kernel, const std::string& what, size_t value,
                         const std::string& expected) {
  throw Error(ncclInvalidUsage,
              "launch of " + kernel.name + ": " + what + " is " + std::to_string(value) + ", expected " + expected);
}

}  // namespace

void Executor::check_launch(const KernelEntry& kernel, const runtime::LaunchShape& shape, size_t args_bytes) const {
  const ncclEpSimConfig_t& config = state_->config;
  if (shape.num_blocks == 0) reject(kernel, "num_blocks", 0, "at least 1");
  if (shape.num_threads == 0 || shape.num_threads % kWarpSize != 0 ||
      shape.num_threads > config.max_threads_per_block) {
    reject(kernel, "num_threads", shape.num_threads,
           "a multiple of 32 up to max_threads_per_block (" + std::to_string(config.max_threads_per_block) + ")");
  }
  if (shape.shared_bytes > config.max_shared_bytes) {
    reject(kernel, "shared_bytes", shape.shared_bytes,
           "at most max_shared_bytes (" + std::to_string(config.max_shared_bytes) + ")");
  }
  if (args_bytes > kMaxArgsBytes) reject(kernel, "args_bytes", args_bytes, "at most " + std::to_string(kMaxArgsBytes));
  if (args_bytes != kernel.args_bytes) {
    reject(kernel, "args_bytes", args_bytes, std::to_string(kernel.args_bytes) + ", the size of its arguments");
  }
}

uint32_t Executor::blocks_per_sm(const runtime::LaunchShape& shape) const {
  const size_t by_threads = kMaxThreadsPerSm / std::max(shape.num_threads, kWarpSize);
  const size_t by_shared = state_->config.max_shared_bytes / std::max<size_t>(shape.shared_bytes, 1);
  return static_cast<uint32_t>(std::clamp<size_t>(std::min(by_threads, by_shared), 1, kMaxBlocksPerSm));
}

void Executor::launch(uint32_t rank, const KernelEntry& kernel, const runtime::LaunchShape& shape,
                      const std::vector<std::byte>& args, check::Knowledge& knowledge, std::function<void()> done) {
  auto grid = std::make_unique<Grid>();
  grid->kernel = &kernel;
  grid->rank = rank;
  grid->num_blocks = shape.num_blocks;
  grid->num_threads = shape.num_threads;
  grid->shared_bytes = shape.shared_bytes;
  grid->args = args;
  grid->knowledge = &knowledge;
  grid->done = std::move(done);
  state_->launch(std::move(grid));
}

void ExecutorState::launch(std::unique_ptr<Grid> grid) {
  if (checker != nullptr) {
    grid->checked =
        checker->begin_grid({grid->kernel->name, grid->rank, grid->num_blocks, grid->num_threads}, *grid->knowledge);
  }
  const uint32_t rank = grid->rank;
  gpus[rank].starting.push_back(grid.get());
  grids.push_back(std::move(grid));
  start_blocks(rank);
}

bool ExecutorState::has_room(const Sm& sm, const Grid& grid) const {
  return sm.num_blocks < kMaxBlocksPerSm && sm.num_threads + grid.num_threads <= kMaxThreadsPerSm &&
         sm.shared_bytes + grid.shared_bytes <= config.max_shared_bytes;
}

namespace {

// The SM with room that has the fewest threads; null if all are full.
Sm* find_sm(ExecutorState& sim, const Grid& grid) {
  Sm* best = nullptr;
  for (Sm& sm : sim.gpus[grid.rank].sms) {
    if (sim.has_room(sm, grid) && (best == nullptr || sm.num_threads < best->num_threads)) best = &sm;
  }
  return best;
}

void prepare_shared_memory(ExecutorState& sim, Block& block) {
  const Grid& grid = *block.grid;
  std::vector<uint32_t>& slots = sim.gpus[grid.rank].free_shared_slots;
  block.shared_slot = slots.back();
  slots.pop_back();
  block.shared = sim.memory.shared_slot(grid.rank, block.shared_slot);
  block.shared_used = grid.shared_bytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(block.shared, sim.memory.shared_slot_bytes());
  __asan_unpoison_memory_region(block.shared, grid.shared_bytes);
#endif
  std::memset(block.shared, kGarbage, grid.shared_bytes);
}

void prepare_warp(ExecutorState& sim, Block& block, uint32_t index) {
  const Grid& grid = *block.grid;
  Warp& warp = block.warps[index];
  warp.block = &block;
  warp.index = index;
  warp.live = warp.runnable = ~0u;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    GpuThread& thread = warp.threads[lane];
    const uint32_t thread_idx = index * kWarpSize + lane;
    thread.identity = {thread_idx, block.index, grid.num_threads, grid.num_blocks};
    thread.warp = &warp;
    thread.serial = ++sim.num_threads_started;
    thread.stack = sim.stacks.take();
    thread.fiber.prepare(thread.stack, sim.stacks.stack_bytes(), run_thread, &thread);
    if (sim.checker != nullptr) thread.checked = &sim.checker->thread(*grid.checked, block.index, thread_idx);
  }
  sim.scheduler.add(warp);
}

void start_block(ExecutorState& sim, Grid& grid, Sm& sm) {
  grid.blocks.push_back(std::make_unique<Block>());
  Block& block = *grid.blocks.back();
  block.grid = &grid;
  block.index = static_cast<uint32_t>(grid.blocks.size()) - 1;
  block.num_live = grid.num_threads;
  block.sm = static_cast<uint32_t>(&sm - sim.gpus[grid.rank].sms.data());
  ++sm.num_blocks;
  sm.num_threads += grid.num_threads;
  sm.shared_bytes += grid.shared_bytes;
  prepare_shared_memory(sim, block);
  block.num_warps = grid.num_threads / kWarpSize;
  block.warps = std::make_unique<Warp[]>(block.num_warps);
  for (uint32_t i = 0; i < block.num_warps; ++i) prepare_warp(sim, block, i);
}

void check_stacks(ExecutorState& sim, const Block& block) {
  for (uint32_t i = 0; i < block.num_warps; ++i) {
    for (const GpuThread& thread : block.warps[i].threads) {
      if (StackPool::is_intact(thread.stack)) continue;
      sim.fail(NCCL_EP_SIM_FAILURE_FAULT, "a thread has needed more stack than the simulator gives it (" +
                                              std::to_string(sim.stacks.stack_bytes()) + " bytes)\n  " +
                                              name_of(thread));
      return;
    }
  }
}

void tidy_up(ExecutorState& sim, Block& block) {
  Grid& grid = *block.grid;
  if (block.bulk_loads_in_flight > 0) {
    sim.fail(NCCL_EP_SIM_FAILURE_FAULT, grid.kernel->name + " on rank " + std::to_string(grid.rank) + ", block " +
                                            std::to_string(block.index) + ", has ended with " +
                                            std::to_string(block.bulk_loads_in_flight) +
                                            " bulk loads into its shared memory under way");
  }
  check_stacks(sim, block);
  for (uint32_t i = 0; i < block.num_warps; ++i) {
    sim.scheduler.remove(block.warps[i]);
    for (GpuThread& thread : block.warps[i].threads) sim.stacks.give_back(thread.stack);
  }
  if (sim.checker != nullptr) sim.checker->forget(block.shared, std::max<size_t>(block.shared_used, 1));
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(block.shared, sim.memory.shared_slot_bytes());
#endif
  Gpu& gpu = sim.gpus[grid.rank];
  gpu.free_shared_slots.push_back(block.shared_slot);
  Sm& sm = gpu.sms[block.sm];
  --sm.num_blocks;
  sm.num_threads -= grid.num_threads;
  sm.shared_bytes -= grid.shared_bytes;
  ++grid.num_blocks_done;
}

}  // namespace

void ExecutorState::start_blocks(uint32_t rank) {
  std::erase_if(gpus[rank].starting, [&](Grid* grid) {
    while (grid->blocks.size() < grid->num_blocks) {
      Sm* sm = find_sm(*this, *grid);
      if (sm == nullptr) return false;
      start_block(*this, *grid, *sm);
    }
    return true;
  });
}

// Ends the current thread. It never comes back.
void ExecutorState::exit_thread() {
  GpuThread& thread = *current;
  Warp& warp = *thread.warp;
  Block& block = *warp.block;
  if (thread.bulk_group_open) {
    fail_thread(0, [] { return std::string("a thread exits with bulk stores that it has not committed"); });
  }
  for (BulkGroup& group : thread.bulk_groups) {
    if (group.num_unread > 0) {
      fail_thread(0, [] {
        return std::string(
            "a thread exits while its bulk stores are still read from shared memory; "
            "expected bulk_wait_read<0> before");
      });
    }
    for (check::Operation* operation : group.operations) block.grid->unlearned_operations.push_back(operation);
    group.operations.clear();
  }
  thread.done = true;
  stores.widen(thread.stores, block.stores);
  ++progress;
  scheduler.set_waiting(thread);
  warp.live &= ~thread.lane_bit();
  --block.num_live;
  if (warp.live != 0) on_lane_exit(warp);
  if (block.num_live != 0) {
    on_thread_exit(block);
  } else {
    finished_blocks.push_back(&block);
    request_attention();
  }
  ++steps;
  GpuThread* next = steps >= attention_at ? nullptr : scheduler.next(&thread);
  if (next == nullptr) Fiber::abandon_to(main);
  make_current(*next);
  Fiber::abandon_to(next->fiber);
}

void ExecutorState::finish_blocks() {
  current = nullptr;  // it may be one of theirs
  std::vector<Grid*> touched;
  for (Block* block : std::exchange(finished_blocks, {})) {
    tidy_up(*this, *block);
    if (std::find(touched.begin(), touched.end(), block->grid) == touched.end()) touched.push_back(block->grid);
  }
  for (Grid* grid : touched) {
    start_blocks(grid->rank);
    end_grid_if_over(*grid);
  }
}

void ExecutorState::end_grid_if_over(Grid& grid) {
  if (grid.num_blocks_done != grid.num_blocks || grid.bulk_stores_in_flight > 0) return;
  after(1 + random.below(delays.grid_end), [this, &grid] { end_grid(grid); });
}

void ExecutorState::end_grid(Grid& grid) {
  for (const auto& block : grid.blocks) {
    stores.perform(block->stores);
    for (uint32_t i = 0; i < block->num_warps; ++i) stores.perform(block->warps[i].stores);
  }
  stores.perform(gpus[grid.rank].stores);
  if (checker != nullptr) {
    checker->end_grid(grid.checked, *grid.knowledge);
    for (check::Operation* operation : grid.unlearned_operations) {
      checker->learn(*grid.knowledge, *operation);
      checker->end(operation);
    }
    fail_if_raced();
    if (failure) return;
  }
  const auto position =
      std::find_if(grids.begin(), grids.end(), [&](const auto& other) { return other.get() == &grid; });
  const std::unique_ptr<Grid> ended = std::move(*position);
  grids.erase(position);
  ended->done();
}

}  // namespace nccl_ep::sim

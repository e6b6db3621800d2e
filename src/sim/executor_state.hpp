// SPDX-License-Identifier: Apache-2.0
// The executor from inside: what its parts and the device primitives share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/checker.hpp"
#include "sim/events.hpp"
#include "sim/executor.hpp"
#include "sim/fiber.hpp"
#include "sim/grid.hpp"
#include "sim/images.hpp"
#include "sim/polling.hpp"
#include "sim/random.hpp"
#include "sim/scheduler.hpp"
#include "sim/store_buffer.hpp"

namespace nccl_ep::sim {

// One SM of a rank, and what is left of it.
struct Sm {
  uint32_t num_blocks = 0;
  uint32_t num_threads = 0;
  size_t shared_bytes = 0;
};

struct Gpu {
  std::vector<Sm> sms;
  std::vector<uint32_t> free_shared_slots;
  std::vector<Grid*> starting;  // grids with blocks that have not started, in the order of their launches
  StoreList stores;             // released at GPU scope
};

// How long engines take, at most: drawn for each kind of copy, so that some seeds are lopsided.
struct EngineDelays {
  uint64_t bulk_load;
  uint64_t bulk_store_read;
  uint64_t bulk_store_write;
  uint64_t grid_end;  // from the end of the last thread until everything is stored
};

// What a signal handler leaves behind.
struct MemoryFault {
  uintptr_t address;
  check::Pc pc;
};

struct ExecutorState {
  ExecutorState(Executor& executor, const ncclEpSimConfig_t& config, check::Checker* checker, LinkCounters& counters);

  // --- Steps, on a fiber.
  void step() { step(current); }
  // The schedule may favour the preferred thread's neighbourhood. Null: all are equal, for threads that may
  // be spinning.
  void step(GpuThread* preferred);
  void step_at_raw_accesses();
  // Ordinary accesses are steps only now and then.
  void maybe_step() {
    if (--accesses_until_step == 0) step_at_access();
  }
  // The current thread stands still until make_runnable().
  void wait(const Wait& wait);
  [[noreturn]] void fail_thread(check::Pc pc, const std::function<std::string()>& text,
                                ncclEpSimFailure_t kind = NCCL_EP_SIM_FAILURE_FAULT);
  void require_room_for_operation(check::Pc pc);
  [[noreturn]] void exit_thread();

  // --- Threads that look at memory. The current one rests if it has learnt nothing new for a while.
  // `what` is a literal that goes before the address in reports.
  void look(const void* address, uint32_t bytes, const char* what, check::Pc pc);
  void notify(const void* address, size_t bytes);
  void make_runnable(GpuThread& thread);
  void wake(const WokenLanes& woken);
  // The current thread has done what others may be waiting for.
  void made_progress() {
    ++progress;
    current->polling.forget();
    current->warp->polling.note_news();
  }

  // --- Pending stores: the current thread releases what it knows of.
  void publish_stores(dev::Scope scope);

  // --- Grids, on the main stack.
  void launch(std::unique_ptr<Grid> grid);
  void start_blocks(uint32_t rank);
  void finish_blocks();
  void end_grid_if_over(Grid& grid);
  void end_grid(Grid& grid);
  void on_lane_exit(Warp& warp);
  void on_thread_exit(Block& block);
  bool has_room(const Sm& sm, const Grid& grid) const;

  // --- The main loop.
  Executor::Outcome run();
  void after(uint64_t steps, std::function<void()> action);
  void request_attention() { attention_at = 0; }
  void attend();
  void resume_fiber(GpuThread& thread);
  bool advance_time();
  bool begin_idle_round();
  bool is_idle() const;
  void fail(ncclEpSimFailure_t kind, std::string report);
  void fail_if_raced();
  std::string describe_deadlock() const;
  uint64_t clock_ns() const { return idle_ns + steps / kStepsPerNs; }

  static constexpr uint64_t kStepsPerNs = 16;

  Executor& executor;
  const ncclEpSimConfig_t config;
  const Topology topology;
  check::Checker* const checker;
  LinkCounters& counters;
  Random random;
  Memory memory;
  Images images;
  StackPool stacks;
  Scheduler scheduler;
  StoreBuffer stores;
  ParkedThreads parked;
  EventQueue events;
  EngineDelays delays;
  std::vector<Gpu> gpus;
  std::vector<std::unique_ptr<Grid>> grids;  // those that run, in the order of their launches

  Fiber main;
  GpuThread* current = nullptr;
  bool on_fiber = false;
  std::vector<Block*> finished_blocks;
  std::optional<MemoryFault> memory_fault;
  struct ThreadFailure {
    ncclEpSimFailure_t kind;
    check::Pc pc;
    const std::function<std::string()>* text;  // on the stack of the thread
  };
  std::optional<ThreadFailure> thread_failure;
  std::optional<ExecutorFailure> failure;
  bool pause_requested = false;

  uint64_t steps = 0;
  uint64_t attention_at = 0;   // the main loop is needed at this step
  uint64_t accesses_per_step;  // on average; 0: ordinary accesses are no steps
  uint64_t accesses_until_step;
  uint64_t steps_until_store = 0;
  uint64_t schedule_hash = 0xcbf29ce484222325;
  uint64_t num_threads_started = 0;

  // While nothing goes on, parked threads are let loose and the clock is put forward, further each time.
  uint64_t progress = 0;  // counts what could make a difference to somebody
  uint64_t progress_at_idle_round = 0;
  uint64_t progress_at_raw_step = 0;
  uint32_t raw_steps_in_vain = 0;
  bool idle_round_due = false;
  uint32_t idle_rounds = 0;
  uint64_t idle_ns = 0;

 private:
  void step_at_access();
  void perform_store_at_random();
  void switch_away();
  void enter(GpuThread& thread);
  void make_current(GpuThread& thread);
  void check_stack();
};

// The executor whose run() is on the stack of this OS thread; null outside.
extern constinit thread_local ExecutorState* running_state __attribute__((tls_model("initial-exec")));

// "ll_dispatch on rank 2, block 1, warp 3, lane 0".
std::string name_of(const GpuThread& thread);
// " at ll/rows.cuh:120 in push", or nothing where the place is not known.
std::string place_of(check::Pc pc);

// Makes memory faults on fibers end in Fiber::abandon_to(main). For the calling OS thread, while it lives.
void catch_memory_faults();

}  // namespace nccl_ep::sim

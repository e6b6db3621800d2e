// SPDX-License-Identifier: Apache-2.0
// Runs kernels on the simulated GPUs. Every CUDA thread is a fiber; all fibers of a cluster share the OS thread that
// calls run(). Which one goes on at each step is drawn from the seed, so the same seed gives the same run.
//
// A step is a point where another thread may go on: a synchronising access, a barrier, a pause, now and then an
// ordinary access. Steps are the simulator's time; engines schedule what they do later at a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nccl_ep_sim.h"
#include "runtime/runtime.hpp"
#include "sim/checker.hpp"
#include "sim/config.hpp"
#include "sim/counters.hpp"
#include "sim/kernel_registry.hpp"
#include "sim/memory.hpp"
#include "sim/random.hpp"

namespace nccl_ep::sim {

struct ExecutorFailure {
  ncclEpSimFailure_t kind = NCCL_EP_SIM_FAILURE_NONE;
  std::string report;
};

class Executor {
 public:
  // `config` has no defaults left in it. `checker` may be null. Counts the accesses of kernels in `counters`.
  Executor(const ncclEpSimConfig_t& config, check::Checker* checker, LinkCounters& counters);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  Memory& memory();
  // What an address is to a reader; for the checker's reports.
  std::string describe(uintptr_t address) const;

  // --- What to run. Not while run() moves the GPUs, except from the actions and callbacks that it calls.

  // Throws if the GPU could never run that.
  void check_launch(const KernelEntry& kernel, const runtime::LaunchShape& shape, size_t args_bytes) const;
  // Blocks of this shape that fit on one SM together; at least 1.
  uint32_t blocks_per_sm(const runtime::LaunchShape& shape) const;
  // Starts a grid; its blocks start as SMs have room for them. The threads begin with `knowledge`, and when all is
  // done and stored, it has grown by theirs and `done` is called. `knowledge` stays where it is until then.
  void launch(uint32_t rank, const KernelEntry& kernel, const runtime::LaunchShape& shape,
              const std::vector<std::byte>& args, check::Knowledge& knowledge, std::function<void()> done);
  // Calls `action` so many steps from now, in the order of the calls if at the same step. When no thread can go on,
  // time jumps to the next action.
  void after(uint64_t steps, std::function<void()> action);
  // What an engine does to memory: threads that poll there see it.
  void copy(void* dst, const void* src, size_t bytes);
  void fill(void* dst, uint8_t value, size_t bytes);
  void notify(const void* address, size_t bytes);
  // The threads of a silent rank stand still.
  void set_silent(uint32_t rank, bool silent);
  // So do these warps of a rank; see Scheduler.
  void stop_warps(uint32_t rank, uint32_t first_block, uint32_t first_warp);

  // --- Moving on.

  enum class Outcome {
    paused,  // request_pause() was called
    idle,    // no kernel is running and no action is due, those of silent ranks aside
    failed
  };
  Outcome run();
  static constexpr const char* kNoHostMemory = "the host has no memory left for the simulation";
  // Lets run() return before the next step.
  void request_pause();

  // The first failure ends the simulation: run() returns `failed` from then on.
  void fail(ncclEpSimFailure_t kind, std::string report);
  const std::optional<ExecutorFailure>& failure() const;

  uint64_t steps() const;
  uint64_t clock_ns() const;
  // A digest of which thread took which step.
  uint64_t schedule_hash() const;

  // --- For device primitives: called by a kernel's code, on its fiber.

  // The executor whose run() is on the stack of this OS thread.
  static Executor& running();
  uint32_t current_rank();
  check::Thread* current_checker_thread();  // null without a checker
  // A step.
  void yield();
  // A device primitive was used wrongly. The stack of a fiber is small: `text` is made on a normal one.
  [[noreturn]] void fail_thread(check::Pc pc, const std::function<std::string()>& text);
  // Before the thread starts an operation of an engine: ends the simulation if the checker cannot follow another one.
  void require_room_for_operation(check::Pc pc);

 private:
  friend struct ExecutorState;
  std::unique_ptr<struct ExecutorState> state_;
};

}  // namespace nccl_ep::sim

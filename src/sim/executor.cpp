// SPDX-License-Identifier: Apache-2.0
#include "sim/executor.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "sim/access_checks.hpp"
#include "sim/executor_state.hpp"
#include "sim/hooks.hpp"

namespace nccl_ep::sim {

constinit thread_local ExecutorState* running_state = nullptr;

namespace device {
__thread const Identity* identity = nullptr;
}

namespace {

constexpr uint64_t kSalt = 0x6578656375746f72;  // others draw from the seed as well
constexpr uint64_t kStepsBetweenChecks = 1024;
constexpr uint32_t kMaxIdleRounds = 48;
constexpr uint32_t kRawStepsPerIdleRound = 4096;
constexpr uint64_t kFirstIdleNs = 1024;

size_t stack_bytes([[maybe_unused]] bool has_checker) {
#if defined(__SANITIZE_ADDRESS__) || defined(EP_FIBER_UCONTEXT)
  return 64 * 1024;
#else
  return has_checker ? 16 * 1024 : 8 * 1024;  // the checker's calls run on the fibers
#endif
}

const std::function<std::string()> kStackOverflow = [] {
  return "a thread needs more stack than the simulator gives it (" +
         std::to_string(running_state->stacks.stack_bytes()) + " bytes)";
};

// Sets what the OS thread must know while run() is on its stack.
class Running {
 public:
  explicit Running(ExecutorState& state) {
    running_state = &state;
    check::hook_state.memory_begin = state.memory.begin();
    check::hook_state.memory_bytes = state.memory.bytes();
    check::hook_state.device_bytes = state.memory.arenas_bytes();
    check::hook_state.check_memory = [](const void* address, size_t bytes, check::Pc pc) {
      check_memory(*running_state, address, bytes, pc);
    };
    check::hook_state.check_elsewhere = [](const void* address, size_t bytes, check::Pc pc) {
      check_elsewhere(*running_state, address, bytes, pc);
    };
    check::hook_state.stack_bytes = state.stacks.stack_bytes();
    check::hook_state.checker = state.checker;
    check::hook_state.yield = [] { running_state->step_at_raw_accesses(); };
  }
  ~Running() {
    running_state = nullptr;
    check::hook_state = {};
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
};

}  // namespace

ExecutorState::ExecutorState(Executor& executor, const ncclEpSimConfig_t& config, check::Checker* checker,
                             LinkCounters& counters)
    : executor(executor),
      config(config),
      topology(topology_of(config)),
      checker(checker),
      counters(counters),
      random(config.seed ^ kSalt),
      memory(config, checker),
      stacks(stack_bytes(checker != nullptr)),
      scheduler(config.schedule, topology.num_ranks(), random.fork()),
      stores(random.fork(), [this](void* address, size_t bytes) { notify(address, bytes); }),
      gpus(topology.num_ranks()) {
  const auto delay = [&] { return uint64_t{4} << random.below(15); };
  delays = {delay(), delay(), delay(), delay()};
  constexpr uint64_t kAccessesPerStep[] = {0, 256, 32, 4};
  accesses_per_step = kAccessesPerStep[random.below(4)];
  accesses_until_step = accesses_per_step == 0 ? EventQueue::kNever : 1;
  for (Gpu& gpu : gpus) {
    gpu.sms.resize(config.sms_per_gpu);
    for (uint32_t slot = memory.num_shared_slots(); slot > 0; --slot) gpu.free_shared_slots.push_back(slot - 1);
  }
}

// ---- steps

void ExecutorState::step(GpuThread* preferred) {
  ++steps;
  check_stack();
  perform_store_at_random();
  if (steps >= attention_at) {
    Fiber::switch_to(current->fiber, main);
    return;
  }
  GpuThread* next = scheduler.next(preferred);
  if (next != current) enter(*next);
}

void ExecutorState::step_at_access() {
  if (accesses_per_step == 0) return;
  accesses_until_step = 1 + random.below(2 * accesses_per_step);
  step();
}

// After many raw accesses. A thread that spins on plain memory goes unnoticed otherwise, and would keep the
// others from running and time from passing.
void ExecutorState::step_at_raw_accesses() {
  if (std::exchange(progress_at_raw_step, progress) != progress) raw_steps_in_vain = 0;
  if (++raw_steps_in_vain % kRawStepsPerIdleRound == 0) {
    idle_round_due = true;
    request_attention();
  }
  step(nullptr);
}

// Now and then, the more often the more there is to perform.
void ExecutorState::perform_store_at_random() {
  const bool late = config.stores == NCCL_EP_SIM_STORES_LATE;
  const size_t num_candidates = late ? stores.num_pending_arrivals() : stores.num_pending();
  if (num_candidates == 0 || steps_until_store-- > 0) return;
  steps_until_store = random.below(1 + 4096 / (64 + num_candidates));
  if (late) {
    stores.perform_any_arrival();
  } else {
    stores.perform_any();
  }
}

void ExecutorState::wait(const Wait& wait) {
  current->wait = wait;
  scheduler.set_waiting(*current);
  switch_away();
}

// Returns when the current thread goes on.
void ExecutorState::switch_away() {
  ++steps;
  check_stack();
  GpuThread* next = steps >= attention_at ? nullptr : scheduler.next(current);
  if (next != nullptr) {
    enter(*next);
  } else {
    Fiber::switch_to(current->fiber, main);
  }
}

void ExecutorState::enter(GpuThread& thread) {
  GpuThread& from = *current;
  make_current(thread);
  Fiber::switch_to(from.fiber, thread.fiber);
}

void ExecutorState::make_current(GpuThread& thread) {
  current = &thread;
  schedule_hash = (schedule_hash ^ (thread.serial << 32 ^ steps)) * 0x100000001b3;  // after FNV
  device::identity = &thread.identity;
  check::hook_state.thread = thread.checked;
  check::hook_state.stack_begin = reinterpret_cast<uintptr_t>(thread.stack);
}

void ExecutorState::check_stack() {
  constexpr ptrdiff_t kMargin = 1024;
  const auto* here = static_cast<const std::byte*>(__builtin_frame_address(0));
  if (here - current->stack < kMargin) fail_thread(current->wait.pc, kStackOverflow);
}

void ExecutorState::fail_thread(check::Pc pc, const std::function<std::string()>& text, ncclEpSimFailure_t kind) {
  thread_failure = {kind, pc, &text};
  Fiber::abandon_to(main);
}

void ExecutorState::require_room_for_operation(check::Pc pc) {
  if (checker == nullptr || checker->has_room_for_operation()) return;
  fail_thread(pc, &check::Checker::no_room, NCCL_EP_SIM_FAILURE_LIMIT);
}

// ---- looking at memory

void ExecutorState::look(const void* address, uint32_t bytes, const char* what, check::Pc pc) {
  switch (current->polling.note(address, bytes, what, current->warp->polling)) {
    case Polling::Reading::changed: ++progress; break;
    case Polling::Reading::unchanged: break;
    case Polling::Reading::idle:
      if (parked.park(*current)) wait({what, 0, pc});
  }
}

void ExecutorState::notify(const void* address, size_t bytes) {
  ++progress;
  if (parked.empty()) return;
  for (const WokenLanes& woken : parked.take(reinterpret_cast<uintptr_t>(address), bytes)) wake(woken);
}

void ExecutorState::wake(const WokenLanes& woken) {
  for (uint32_t lanes = woken.lanes; lanes != 0; lanes &= lanes - 1) {
    make_runnable(woken.warp->threads[std::countr_zero(lanes)]);
  }
}

void ExecutorState::make_runnable(GpuThread& thread) {
  thread.wait = {};
  scheduler.set_runnable(thread);
}

// ---- the main loop

Executor::Outcome ExecutorState::run() {
  const Running scope(*this);
  catch_memory_faults();
  main.use_own_stack();
  while (true) {
    if (steps >= attention_at) attend();
    if (failure) return Executor::Outcome::failed;
    if (std::exchange(pause_requested, false)) return Executor::Outcome::paused;
    if (GpuThread* next = scheduler.next(current)) {
      resume_fiber(*next);
    } else if (!advance_time()) {
      return failure ? Executor::Outcome::failed : Executor::Outcome::idle;
    }
  }
}

void ExecutorState::resume_fiber(GpuThread& thread) {
  make_current(thread);
  on_fiber = true;
  Fiber::switch_to(main, thread.fiber);
  on_fiber = false;
  if (thread_failure) {
    const std::string text = (*thread_failure->text)();
    fail(thread_failure->kind, text + "\n  " + name_of(*current) + place_of(thread_failure->pc));
  }
  if (memory_fault) {
    fail(NCCL_EP_SIM_FAILURE_FAULT, "a bad access to " + memory.describe(memory_fault->address) + "\n  " +
                                        name_of(*current) + place_of(memory_fault->pc));
  }
  if (!finished_blocks.empty()) finish_blocks();
}

// Does what is due.
void ExecutorState::attend() {
  fail_if_raced();
  if (config.step_limit != 0 && steps >= config.step_limit) {
    fail(NCCL_EP_SIM_FAILURE_STEP_LIMIT,
         "the simulation has not ended after " + std::to_string(steps) + " steps (ncclEpSimConfig_t.step_limit)");
  }
  if (std::exchange(idle_round_due, false)) begin_idle_round();
  while (!failure && events.next_due() <= steps) {
    ++progress;
    events.take()();
  }
  attention_at = std::min({events.next_due(), steps + kStepsBetweenChecks,
                           config.step_limit != 0 ? config.step_limit : EventQueue::kNever});
}

void ExecutorState::after(uint64_t delay, std::function<void()> action) {
  events.add(steps + delay, std::move(action));
  attention_at = std::min(attention_at, events.next_due());
}

// No thread can go on. False: nothing will ever happen again.
bool ExecutorState::advance_time() {
  if (!events.empty()) {
    steps = std::max(steps, events.next_due());
    return true;
  }
  if (stores.num_pending() > 0) {
    stores.perform_any();
    return true;
  }
  if (is_idle()) return false;
  if (parked.empty()) {
    fail(NCCL_EP_SIM_FAILURE_DEADLOCK, describe_deadlock());
    return false;
  }
  return begin_idle_round();
}

// Lets all parked threads look again, at a later time. False: that has been tried often enough.
bool ExecutorState::begin_idle_round() {
  if (std::exchange(progress_at_idle_round, progress) != progress) idle_rounds = 0;
  if (++idle_rounds > kMaxIdleRounds) {
    fail(NCCL_EP_SIM_FAILURE_DEADLOCK, describe_deadlock());
    return false;
  }
  idle_ns += kFirstIdleNs << idle_rounds;
  for (const WokenLanes& woken : parked.take_all()) wake(woken);
  return true;
}

bool ExecutorState::is_idle() const {
  return std::all_of(grids.begin(), grids.end(), [&](const auto& grid) { return scheduler.is_silent(grid->rank); });
}

void ExecutorState::fail(ncclEpSimFailure_t kind, std::string report) {
  if (failure) return;
  fail_if_raced();
  if (!failure) failure = ExecutorFailure{kind, std::move(report)};
  request_attention();
}

// A race comes first: whatever else went wrong may be its consequence.
void ExecutorState::fail_if_raced() {
  if (failure || checker == nullptr || !checker->has_findings()) return;
  std::string text;
  for (const check::Report& report : checker->reports()) text += (text.empty() ? "" : "\n") + report.text;
  if (!text.empty()) failure = ExecutorFailure{NCCL_EP_SIM_FAILURE_RACE, std::move(text)};
}

// ---- the public face

Executor::Executor(const ncclEpSimConfig_t& config, check::Checker* checker, LinkCounters& counters)
    : state_(std::make_unique<ExecutorState>(*this, config, checker, counters)) {}
Executor::~Executor() = default;

Memory& Executor::memory() { return state_->memory; }
std::string Executor::describe(uintptr_t address) const { return state_->memory.describe(address); }

void Executor::after(uint64_t steps, std::function<void()> action) { state_->after(steps, std::move(action)); }

void Executor::copy(void* dst, const void* src, size_t bytes) {
  state_->stores.perform_at(dst, bytes);
  std::memcpy(dst, src, bytes);
  state_->notify(dst, bytes);
}

void Executor::fill(void* dst, uint8_t value, size_t bytes) {
  state_->stores.perform_at(dst, bytes);
  std::memset(dst, value, bytes);
  state_->notify(dst, bytes);
}

void Executor::notify(const void* address, size_t bytes) { state_->notify(address, bytes); }

void Executor::set_silent(uint32_t rank, bool silent) { state_->scheduler.set_silent(rank, silent); }

void Executor::stop_warps(uint32_t rank, uint32_t first_block, uint32_t first_warp) {
  state_->scheduler.stop_warps(rank, first_block, first_warp);
}

// What is thrown here has nobody above it to go to.
Executor::Outcome Executor::run() {
  try {
    return state_->run();
  } catch (const std::bad_alloc&) {
    state_->fail(NCCL_EP_SIM_FAILURE_LIMIT, kNoHostMemory);
  } catch (const std::exception& error) {
    state_->fail(NCCL_EP_SIM_FAILURE_LIMIT, error.what());
  }
  return Outcome::failed;
}

void Executor::request_pause() {
  state_->pause_requested = true;
  state_->request_attention();
}

void Executor::fail(ncclEpSimFailure_t kind, std::string report) { state_->fail(kind, std::move(report)); }
const std::optional<ExecutorFailure>& Executor::failure() const { return state_->failure; }

uint64_t Executor::steps() const { return state_->steps; }
uint64_t Executor::clock_ns() const { return state_->clock_ns(); }
uint64_t Executor::schedule_hash() const { return state_->schedule_hash; }

Executor& Executor::running() { return running_state->executor; }
uint32_t Executor::current_rank() { return state_->current->warp->block->grid->rank; }
check::Thread* Executor::current_checker_thread() { return state_->current->checked; }
void Executor::yield() { state_->step(); }
void Executor::fail_thread(check::Pc pc, const std::function<std::string()>& text) { state_->fail_thread(pc, text); }
void Executor::require_room_for_operation(check::Pc pc) { state_->require_room_for_operation(pc); }

}  // namespace nccl_ep::sim

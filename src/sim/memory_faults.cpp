// SPDX-License-Identifier: Apache-2.0
// Turns SIGSEGV and SIGBUS on a fiber into a failure of the simulation.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>
#include <new>

#include "sim/executor_state.hpp"

namespace nccl_ep::sim {

namespace {

struct sigaction previous_segv, previous_bus;

check::Pc pc_of(const void* context) {
  const auto& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  return static_cast<check::Pc>(machine.gregs[REG_RIP]) + 1;  // elsewhere, pcs are return addresses
#elif defined(__aarch64__)
  return static_cast<check::Pc>(machine.pc) + 1;
#else
  (void)machine;
  return 0;
#endif
}

void on_fault(int signal, siginfo_t* info, void* context) {
  ExecutorState* sim = running_state;
  if (sim != nullptr && sim->on_fiber) {
    sim->memory_fault = MemoryFault{reinterpret_cast<uintptr_t>(info->si_addr), pc_of(context)};
    Fiber::abandon_to(sim->main);
  }
  // Not ours: the same access again, under the handler from before.
  sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
}

// Others may have put their handlers in place of ours since the last time; then theirs are what comes after ours.
void install_handler(int signal, struct sigaction& previous) {
  struct sigaction action = {};
  sigaction(signal, nullptr, &action);
  if ((action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == on_fault) return;
  previous = action;
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

// Handlers cannot run on the stack of a fiber, which may be what has overflown.
class SignalStack {
 public:
  SignalStack() {
    memory_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    stack_t stack = {};
    stack.ss_sp = memory_;
    stack.ss_size = kBytes;
    sigaltstack(&stack, &previous_);
  }
  ~SignalStack() {
    sigaltstack(&previous_, nullptr);
    munmap(memory_, kBytes);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  static constexpr size_t kBytes = 64 * 1024;
  void* memory_;
  stack_t previous_;
};

}  // namespace

void catch_memory_faults() {
  static std::mutex mutex;
  static thread_local SignalStack stack;
  (void)stack;
  const std::lock_guard lock(mutex);
  install_handler(SIGSEGV, previous_segv);
  install_handler(SIGBUS, previous_bus);
}

}  // namespace nccl_ep::sim

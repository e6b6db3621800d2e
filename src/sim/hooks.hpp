// SPDX-License-Identifier: Apache-2.0
// What the compiler's instrumentation of kernels (-fsanitize=thread) calls back into: the __tsan_* functions
// of hooks.cpp. They look here to see who is running.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nccl_ep::sim::check {

class Checker;
class Thread;

// Of the OS thread that runs the fibers; the executor sets it whenever it switches fibers. Outside kernels
// `memory_bytes` is zero, which turns the hooks off.
struct HookState {
  // The range that device memory and behind it shared memory lie in. What the checker does not follow is elsewhere.
  uintptr_t memory_begin = 0;
  uintptr_t memory_bytes = 0;
  uintptr_t device_bytes = 0;
  // The stack of the running thread. Outside kernels it is everything.
  uintptr_t stack_begin = 0;
  uintptr_t stack_bytes = ~uintptr_t{0};
  // End the simulation if the running thread may not use that: device memory, and what is neither that nor shared memory
  // nor its stack.
  void (*check_memory)(const void* address, size_t bytes, uintptr_t pc) = nullptr;
  void (*check_elsewhere)(const void* address, size_t bytes, uintptr_t pc) = nullptr;
  Checker* checker = nullptr;  // null: accesses are not checked
  Thread* thread = nullptr;
  // Called after every kAccessesPerYield accesses, so that spinning on a plain load cannot hang the cluster.
  void (*yield)() = nullptr;
  uint32_t accesses_until_yield = 0;
};

constexpr uint32_t kAccessesPerYield = 256;

// In the initial TLS block: the hooks run on every access of a kernel.
extern constinit thread_local HookState hook_state __attribute__((tls_model("initial-exec")));

}  // namespace nccl_ep::sim::check

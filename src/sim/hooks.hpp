// SPDX-License-Identifier: Apache-2.0
// What the compiler's instrumentation of kernels (-fsanitize=thread) calls back into: the __tsan_* functions of
// hooks.cpp. They look here to see who is running.
#pragma once

#include <cstdint>

namespace nccl_ep::sim::check {

class Checker;
class Thread;

// Set by the executor whenever it switches fibers; of the OS thread that runs the fibers.
struct HookState {
  Checker* checker = nullptr;  // null: accesses are not checked
  Thread* thread = nullptr;
  // Called after every kAccessesPerYield raw accesses, so that spinning on a plain load cannot hang the cluster. Null
  // outside kernels, and while the executor itself runs on a fiber's stack.
  void (*yield)() = nullptr;
  uint32_t accesses_until_yield = 0;
};

constexpr uint32_t kAccessesPerYield = 256;

// In the initial TLS block: the hooks run on every access of a kernel.
extern thread_local HookState hook_state __attribute__((tls_model("initial-exec")));

}  // namespace nccl_ep::sim::check

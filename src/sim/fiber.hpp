// SPDX-License-Identifier: Apache-2.0
// Fibers: stacks that an OS thread switches between. And the pool that their small stacks come from.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__) && !defined(__aarch64__)
#define EP_FIBER_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace nccl_ep::sim {

// A point of execution on a stack of its own. A default-made fiber stands for the OS thread's own stack.
class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // `entry` runs at the first switch to this fiber, and must never return.
  void prepare(std::byte* stack, size_t stack_bytes, Entry entry, void* argument);
  // Call once before switching away from the OS thread's own stack.
  void use_own_stack();

  // Leaves off in `from` and goes on in `to`. Returns when somebody switches back to `from`.
  static void switch_to(Fiber& from, Fiber& to);
  // Goes on in `to`; what ran before is never resumed. Allowed in a signal handler.
  [[noreturn]] static void abandon_to(Fiber& to);

 private:
  static void start(Fiber* fiber);

#if defined(EP_FIBER_UCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
#endif
};

// Stacks of one size, a lot of them. They lie in huge pages, since switching between many of them is bound by TLB
// misses.
class StackPool {
 public:
  explicit StackPool(size_t stack_bytes) : stack_bytes_(stack_bytes) {}
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  size_t stack_bytes() const { return stack_bytes_; }
  std::byte* take();
  void give_back(std::byte* stack);
  // Whether the stack has stayed within its bounds since it was taken.
  static bool is_intact(const std::byte* stack);

 private:
  void add_slab();

  size_t stack_bytes_;
  std::vector<void*> slabs_;
  std::vector<std::byte*> free_;
};

}  // namespace nccl_ep::sim

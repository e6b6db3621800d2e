// SPDX-License-Identifier: Apache-2.0
// The functions that code compiled with -fsanitize=thread calls. The sanitizer's own run-time library is not
// linked: only its instrumentation is used, to see the raw loads and stores of kernels.
#include "sim/hooks.hpp"

#include <cstddef>
#include <cstring>

#include "sim/checker.hpp"

namespace nccl_ep::sim::check {

constinit thread_local HookState hook_state;

namespace {

template <bool kWrites>
inline void on_access(void* address, size_t bytes, void* pc) {
  HookState& state = hook_state;
  const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - state.memory_begin;
  if (offset >= state.memory_bytes) {
    if (reinterpret_cast<uintptr_t>(address) - state.stack_begin < state.stack_bytes) return;
    return state.check_elsewhere(address, bytes, reinterpret_cast<Pc>(pc));
  }
  if (offset < state.device_bytes) state.check_memory(address, bytes, reinterpret_cast<Pc>(pc));
  if (state.checker != nullptr) {
    if constexpr (kWrites) {
      state.checker->write(*state.thread, address, bytes, reinterpret_cast<Pc>(pc));
    } else {
      state.checker->read(*state.thread, address, bytes, reinterpret_cast<Pc>(pc));
    }
  }
  if (state.accesses_until_yield-- == 0) {
    state.accesses_until_yield = kAccessesPerYield - 1;
    state.yield();
  }
}

}  // namespace
}  // namespace nccl_ep::sim::check

#define EP_HOOK extern "C" __attribute__((visibility("default")))
#define EP_READ(bytes) nccl_ep::sim::check::on_access<false>(address, bytes, __builtin_return_address(0))
#define EP_WRITE(bytes) nccl_ep::sim::check::on_access<true>(address, bytes, __builtin_return_address(0))

#define EP_HOOKS_OF_SIZE(size)                                                          \
  EP_HOOK void __tsan_read##size(void* address) { EP_READ(size); }                      \
  EP_HOOK void __tsan_write##size(void* address) { EP_WRITE(size); }                    \
  EP_HOOK void __tsan_unaligned_read##size(void* address) { EP_READ(size); }            \
  EP_HOOK void __tsan_unaligned_write##size(void* address) { EP_WRITE(size); }          \
  EP_HOOK void __tsan_volatile_read##size(void* address) { EP_READ(size); }             \
  EP_HOOK void __tsan_volatile_write##size(void* address) { EP_WRITE(size); }           \
  EP_HOOK void __tsan_unaligned_volatile_read##size(void* address) { EP_READ(size); }   \
  EP_HOOK void __tsan_unaligned_volatile_write##size(void* address) { EP_WRITE(size); } \
  EP_HOOK void __tsan_read_write##size(void* address) {                                 \
    EP_READ(size);                                                                      \
    EP_WRITE(size);                                                                     \
  }

EP_HOOKS_OF_SIZE(1)
EP_HOOKS_OF_SIZE(2)
EP_HOOKS_OF_SIZE(4)
EP_HOOKS_OF_SIZE(8)
EP_HOOKS_OF_SIZE(16)

EP_HOOK void __tsan_init() {}
EP_HOOK void __tsan_func_entry(void*) {}
EP_HOOK void __tsan_func_exit() {}
EP_HOOK void __tsan_vptr_read(void**) {}
EP_HOOK void __tsan_vptr_update(void**, void*) {}

EP_HOOK void __tsan_read_range(void* address, size_t bytes) { EP_READ(bytes); }
EP_HOOK void __tsan_write_range(void* address, size_t bytes) { EP_WRITE(bytes); }

EP_HOOK void* __tsan_memcpy(void* address, const void* source, size_t bytes) {
  nccl_ep::sim::check::on_access<false>(const_cast<void*>(source), bytes, __builtin_return_address(0));
  EP_WRITE(bytes);
  return std::memcpy(address, source, bytes);
}

EP_HOOK void* __tsan_memmove(void* address, const void* source, size_t bytes) {
  nccl_ep::sim::check::on_access<false>(const_cast<void*>(source), bytes, __builtin_return_address(0));
  EP_WRITE(bytes);
  return std::memmove(address, source, bytes);
}

EP_HOOK void* __tsan_memset(void* address, int value, size_t bytes) {
  EP_WRITE(bytes);
  return std::memset(address, value, bytes);
}

// Guards of function-local statics. Kernels synchronise through the device primitives, never through
// std::atomic.
EP_HOOK uint8_t __tsan_atomic8_load(const volatile uint8_t* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
EP_HOOK uint32_t __tsan_atomic32_load(const volatile uint32_t* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
EP_HOOK uint64_t __tsan_atomic64_load(const volatile uint64_t* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

// SPDX-License-Identifier: Apache-2.0
// The device primitives on the simulated GPU cluster. device.hpp has the contract.
//
// Kernels for it may live in any shared library: what they call is exported by libnccl_ep_sim.so. The functions in
// sim::device are never inlined, so that their return address is the place in the kernel.
#pragma once

#include <cstddef>

#include "device/primitive_types.hpp"
#include "device/sim_numbers.hpp"

#define EP_SIM_EXPORT __attribute__((visibility("default")))
#define EP_DEVICE inline

// Function-local statics tell the arrays apart; where they are is the running block's affair.
#define EP_SHARED(T, name, ...)                                                    \
  static const uint32_t name##_id = ::nccl_ep::sim::device::new_shared_array_id(); \
  typedef T name##_type __VA_ARGS__;                                               \
  name##_type& name = *static_cast<name##_type*>(                                  \
      ::nccl_ep::sim::device::shared_array(name##_id, sizeof(name##_type), alignof(name##_type)))
#define EP_DYNAMIC_SHARED(name) unsigned char* const name = ::nccl_ep::sim::device::dynamic_shared()

// Makes `void function(const Args&)` a kernel that can be launched by its name. A later one replaces an earlier one.
#define EP_SIM_KERNEL(name, function, Args) EP_SIM_KERNEL_NUMBERED(name, function, Args, __COUNTER__)
#define EP_SIM_KERNEL_NUMBERED(name, function, Args, number) EP_SIM_KERNEL_NAMED(name, function, Args, number)
#define EP_SIM_KERNEL_NAMED(name, function, Args, number)                                      \
  [[maybe_unused]] static const bool ep_sim_kernel_##number = ::nccl_ep::sim::register_kernel( \
      name, [](const void* args) { (function)(*static_cast<const Args*>(args)); }, sizeof(Args));

namespace nccl_ep::sim {

using KernelFunction = void (*)(const void* args);

// Returns true, so that it can initialise a variable.
EP_SIM_EXPORT bool register_kernel(const char* name, KernelFunction function, size_t args_bytes);

namespace device {

struct Identity {
  uint32_t thread;
  uint32_t block;
  uint32_t num_threads;
  uint32_t num_blocks;
};

// Of the thread that runs now.
extern EP_SIM_EXPORT __thread const Identity* identity __attribute__((tls_model("initial-exec")));

// Up to sixteen bytes, the first ones in `low`.
struct Bits {
  uint64_t low;
  uint64_t high;
};

EP_SIM_EXPORT Bits load(const void* p, uint32_t bytes);
EP_SIM_EXPORT Bits load_constant(const void* p, uint32_t bytes);
EP_SIM_EXPORT void store(void* p, Bits value, uint32_t bytes);
EP_SIM_EXPORT uint64_t sync_load(const void* p, uint32_t bytes, dev::Order order, dev::Scope scope);
EP_SIM_EXPORT void sync_store(void* p, uint64_t value, uint32_t bytes, dev::Order order, dev::Scope scope);
enum class Update { add, bitwise_or, exchange, compare_and_swap };
EP_SIM_EXPORT uint64_t update(Update what, void* p, uint64_t value, uint64_t expected, uint32_t bytes, dev::Order order,
                              dev::Scope scope);
EP_SIM_EXPORT Bits load_unit(const void* p);
EP_SIM_EXPORT void store_unit(void* p, Bits unit);
EP_SIM_EXPORT Bits load_line(const void* part);
EP_SIM_EXPORT void store_line(void* part, Bits unit, bool active);
EP_SIM_EXPORT void fence(dev::Scope scope);

// The whole warp meets, and each lane gets a result from what the lanes brought. `lane` is the shuffles' argument.
enum class Meeting { sync, ballot, shuffle, shuffle_xor, sum, maximum, bitwise_or, load_line, store_line };
EP_SIM_EXPORT uint64_t meet_warp(Meeting what, uint64_t value, uint32_t lane);
EP_SIM_EXPORT bool meet_block(bool pred);
EP_SIM_EXPORT void bar_sync(uint32_t id, uint32_t num_threads);
EP_SIM_EXPORT void bar_arrive(uint32_t id, uint32_t num_threads);

EP_SIM_EXPORT void mbar_init(dev::Mbarrier* bar, uint32_t arrivals);
EP_SIM_EXPORT void mbar_inval(dev::Mbarrier* bar);
EP_SIM_EXPORT void mbar_arrive(dev::Mbarrier* bar, uint32_t expected_bytes);
EP_SIM_EXPORT bool mbar_test(dev::Mbarrier* bar, uint32_t parity);
EP_SIM_EXPORT void mbar_wait(dev::Mbarrier* bar, uint32_t parity);
EP_SIM_EXPORT void fence_mbar_init();

EP_SIM_EXPORT void bulk_load(void* shared_dst, const void* global_src, uint32_t bytes, dev::Mbarrier* bar);
EP_SIM_EXPORT void bulk_store(void* global_dst, const void* shared_src, uint32_t bytes);
EP_SIM_EXPORT void bulk_commit();
EP_SIM_EXPORT void bulk_wait(uint32_t max_unfinished);
EP_SIM_EXPORT void bulk_wait_read(uint32_t max_unread);
EP_SIM_EXPORT void fence_proxy_async();

EP_SIM_EXPORT uint32_t new_shared_array_id();
EP_SIM_EXPORT void* shared_array(uint32_t id, size_t bytes, size_t alignment);
EP_SIM_EXPORT unsigned char* dynamic_shared();

EP_SIM_EXPORT uint64_t clock_ns();
EP_SIM_EXPORT void pause();

template <class T>
Bits to_bits(const T& value) {
  Bits bits{};
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(const Bits& bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace device
}  // namespace nccl_ep::sim

namespace nccl_ep::dev {

namespace detail {

template <class T>
constexpr bool kIsLoadable = sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0;

}  // namespace detail

// ---- identity

EP_DEVICE uint32_t thread_idx() { return sim::device::identity->thread; }
EP_DEVICE uint32_t lane_idx() { return sim::device::identity->thread % 32; }
EP_DEVICE uint32_t warp_idx() { return sim::device::identity->thread / 32; }
EP_DEVICE uint32_t block_idx() { return sim::device::identity->block; }
EP_DEVICE uint32_t num_threads() { return sim::device::identity->num_threads; }
EP_DEVICE uint32_t num_warps() { return sim::device::identity->num_threads / 32; }
EP_DEVICE uint32_t num_blocks() { return sim::device::identity->num_blocks; }

// ---- weak accesses

template <class T>
EP_DEVICE T ld(const T* p) {
  static_assert(detail::kIsLoadable<T>);
  return sim::device::from_bits<T>(sim::device::load(p, sizeof(T)));
}

template <class T>
EP_DEVICE T ld_nc(const T* p) {
  static_assert(detail::kIsLoadable<T>);
  return sim::device::from_bits<T>(sim::device::load_constant(p, sizeof(T)));
}

EP_DEVICE int32_t ld_nc_or(const int32_t* p, int32_t otherwise) { return p ? ld_nc(p) : otherwise; }

template <class T>
EP_DEVICE void st(T* p, const detail::SameAs<T>& value) {
  static_assert(detail::kIsLoadable<T>);
  sim::device::store(p, sim::device::to_bits(value), sizeof(T));
}

template <class T>
EP_DEVICE T ld_shared(const T* p) {
  static_assert(sizeof(T) == 16);
  return ld(p);
}
template <class T>
EP_DEVICE void st_shared(T* p, const detail::SameAs<T>& value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  st(p, value);
}

// ---- sync accesses

template <Scope kScope, class T>
EP_DEVICE T ld_relaxed(const T* p) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(sim::device::sync_load(p, sizeof(T), Order::relaxed, kScope));
}

template <Scope kScope, class T>
EP_DEVICE T ld_acquire(const T* p) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(sim::device::sync_load(p, sizeof(T), Order::acquire, kScope));
}

template <Scope kScope, class T>
EP_DEVICE void st_relaxed(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  sim::device::sync_store(p, value, sizeof(T), Order::relaxed, kScope);
}

template <Scope kScope, class T>
EP_DEVICE void st_release(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  sim::device::sync_store(p, value, sizeof(T), Order::release, kScope);
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_add(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(sim::device::update(sim::device::Update::add, p, value, 0, sizeof(T), kOrder, kScope));
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_or(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(sim::device::update(sim::device::Update::bitwise_or, p, value, 0, sizeof(T), kOrder, kScope));
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_exchange(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(sim::device::update(sim::device::Update::exchange, p, value, 0, sizeof(T), kOrder, kScope));
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_cas(T* p, detail::SameAs<T> expected, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  return static_cast<T>(
      sim::device::update(sim::device::Update::compare_and_swap, p, value, expected, sizeof(T), kOrder, kScope));
}

template <Scope kScope>
EP_DEVICE void fence() {
  sim::device::fence(kScope);
}

// ---- units

EP_DEVICE Unit ld_unit(const Unit* p) { return sim::device::from_bits<Unit>(sim::device::load_unit(p)); }
EP_DEVICE void st_unit(Unit* p, const Unit& unit) { sim::device::store_unit(p, sim::device::to_bits(unit)); }

// ---- lines

EP_DEVICE Unit ld_line(const Unit* part) { return sim::device::from_bits<Unit>(sim::device::load_line(part)); }
EP_DEVICE void st_line(Unit* part, const Unit& unit, bool active) {
  sim::device::store_line(part, sim::device::to_bits(unit), active);
}

// ---- warp and block

EP_DEVICE void sync_warp() { sim::device::meet_warp(sim::device::Meeting::sync, 0, 0); }
EP_DEVICE uint32_t ballot(bool predicate) {
  return static_cast<uint32_t>(sim::device::meet_warp(sim::device::Meeting::ballot, predicate, 0));
}
EP_DEVICE bool all(bool predicate) { return ballot(!predicate) == 0; }
EP_DEVICE bool any(bool predicate) { return ballot(predicate) != 0; }
// Values of 4 or 8 bytes, whatever their type.
template <class T>
EP_DEVICE T shfl(T value, uint32_t lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const uint64_t bits = sim::device::to_bits(value).low;
  return sim::device::from_bits<T>({sim::device::meet_warp(sim::device::Meeting::shuffle, bits, lane), 0});
}
template <class T>
EP_DEVICE T shfl_xor(T value, uint32_t mask) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const uint64_t bits = sim::device::to_bits(value).low;
  return sim::device::from_bits<T>({sim::device::meet_warp(sim::device::Meeting::shuffle_xor, bits, mask), 0});
}
EP_DEVICE uint32_t sum_warp(uint32_t value) {
  return static_cast<uint32_t>(sim::device::meet_warp(sim::device::Meeting::sum, value, 0));
}
EP_DEVICE uint32_t max_warp(uint32_t value) {
  return static_cast<uint32_t>(sim::device::meet_warp(sim::device::Meeting::maximum, value, 0));
}
EP_DEVICE uint32_t or_warp(uint32_t value) {
  return static_cast<uint32_t>(sim::device::meet_warp(sim::device::Meeting::bitwise_or, value, 0));
}

EP_DEVICE uint32_t popc(uint32_t bits) { return static_cast<uint32_t>(__builtin_popcount(bits)); }
EP_DEVICE uint32_t popc(uint64_t bits) { return static_cast<uint32_t>(__builtin_popcountll(bits)); }
EP_DEVICE int32_t find_first(uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)) - 1; }
EP_DEVICE int32_t find_first(uint64_t bits) { return __builtin_ffsll(static_cast<long long>(bits)) - 1; }

EP_DEVICE void sync_block() { sim::device::meet_block(true); }
EP_DEVICE bool all_in_block(bool pred) { return sim::device::meet_block(pred); }
EP_DEVICE void bar_sync(uint32_t id, uint32_t num_threads) { sim::device::bar_sync(id, num_threads); }
EP_DEVICE void bar_arrive(uint32_t id, uint32_t num_threads) { sim::device::bar_arrive(id, num_threads); }

// ---- mbarrier and bulk copy

EP_DEVICE void mbar_init(Mbarrier* bar, uint32_t arrivals) { sim::device::mbar_init(bar, arrivals); }
EP_DEVICE void mbar_inval(Mbarrier* bar) { sim::device::mbar_inval(bar); }
EP_DEVICE void fence_mbar_init() { sim::device::fence_mbar_init(); }
EP_DEVICE void mbar_arrive(Mbarrier* bar) { sim::device::mbar_arrive(bar, 0); }
EP_DEVICE void mbar_arrive_expect_tx(Mbarrier* bar, uint32_t bytes) { sim::device::mbar_arrive(bar, bytes); }
EP_DEVICE bool mbar_test(Mbarrier* bar, uint32_t parity) { return sim::device::mbar_test(bar, parity); }
EP_DEVICE void mbar_wait(Mbarrier* bar, uint32_t parity) { sim::device::mbar_wait(bar, parity); }

EP_DEVICE void bulk_load(void* shared_dst, const void* global_src, uint32_t bytes, Mbarrier* bar) {
  sim::device::bulk_load(shared_dst, global_src, bytes, bar);
}
EP_DEVICE void bulk_store(void* global_dst, const void* shared_src, uint32_t bytes) {
  sim::device::bulk_store(global_dst, shared_src, bytes);
}
EP_DEVICE void bulk_commit() { sim::device::bulk_commit(); }
template <int kUnfinished>
EP_DEVICE void bulk_wait() {
  sim::device::bulk_wait(kUnfinished);
}
template <int kUnread>
EP_DEVICE void bulk_wait_read() {
  sim::device::bulk_wait_read(kUnread);
}
EP_DEVICE void fence_proxy_async() { sim::device::fence_proxy_async(); }

// ---- time

// Few: when all threads only poll, each poll takes longer than the one before.
constexpr uint32_t kPollsBeforeClock = 2;
EP_DEVICE uint64_t clock_ns() { return sim::device::clock_ns(); }
EP_DEVICE void pause() { sim::device::pause(); }

}  // namespace nccl_ep::dev

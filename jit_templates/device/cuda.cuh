// SPDX-License-Identifier: Apache-2.0
// The device primitives on a GPU (sm_90 and later). PTX lives here and nowhere else; device.hpp has the
// contract.
//
// Compiled by NVRTC with -default-device and no headers but ours. Every asm that touches memory is volatile
// and clobbers "memory", so the compiler moves no access across it; the exception is ld_nc, whose data nobody
// writes. Addresses are generic where the contract allows shared memory, and .global or .shared::cta where it
// does not.
#pragma once

#include "device/primitive_types.hpp"

#define EP_DEVICE __device__ __forceinline__
#define EP_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define EP_DYNAMIC_SHARED(name)                                        \
  extern __shared__ __align__(1024) unsigned char ep_dynamic_shared[]; \
  unsigned char* const name = ep_dynamic_shared

namespace nccl_ep::dev {

namespace detail {

constexpr uint32_t kWarp = 0xffffffffu;

template <bool kIsWide>
struct WordBySize {
  using Type = uint32_t;
};
template <>
struct WordBySize<true> {
  using Type = uint64_t;
};
template <class T>
using WordOf = typename WordBySize<sizeof(T) == 8>::Type;

// The types that the compiler's atomics are declared for.
template <bool kIsWide>
struct NativeBySize {
  using Type = unsigned int;
};
template <>
struct NativeBySize<true> {
  using Type = unsigned long long;
};
template <class T>
using NativeOf = typename NativeBySize<sizeof(T) == 8>::Type;

template <class To, class From>
EP_DEVICE To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

EP_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
EP_DEVICE uint64_t global_address(const void* p) { return __cvta_generic_to_global(p); }
template <Scope kScope>
EP_DEVICE uint64_t address(const void* p) {
  return kScope == Scope::block ? reinterpret_cast<uint64_t>(p) : global_address(p);
}

}  // namespace detail

// ---- identity

EP_DEVICE uint32_t thread_idx() { return threadIdx.x; }
EP_DEVICE uint32_t lane_idx() { return threadIdx.x % 32; }
EP_DEVICE uint32_t warp_idx() { return threadIdx.x / 32; }
EP_DEVICE uint32_t block_idx() { return blockIdx.x; }
EP_DEVICE uint32_t num_threads() { return blockDim.x; }
EP_DEVICE uint32_t num_warps() { return blockDim.x / 32; }
EP_DEVICE uint32_t num_blocks() { return gridDim.x; }

// ---- weak accesses

template <class T>
EP_DEVICE T ld(const T* p) {
  if constexpr (sizeof(T) == 1) {
    uint32_t v;
    asm volatile("ld.u8 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return detail::bits<T>(static_cast<uint8_t>(v));
  } else if constexpr (sizeof(T) == 2) {
    uint16_t v;
    asm volatile("ld.b16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return detail::bits<T>(v);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t v;
    asm volatile("ld.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return detail::bits<T>(v);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t v;
    asm volatile("ld.b64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return detail::bits<T>(v);
  } else {
    static_assert(sizeof(T) == 16);
    uint4 v;
    asm volatile("ld.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return detail::bits<T>(v);
  }
}

template <class T>
EP_DEVICE T ld_nc(const T* p) {
  const uint64_t a = detail::global_address(p);
  if constexpr (sizeof(T) == 1) {
    uint32_t v;
    asm("ld.global.nc.u8 %0, [%1];" : "=r"(v) : "l"(a));
    return detail::bits<T>(static_cast<uint8_t>(v));
  } else if constexpr (sizeof(T) == 2) {
    uint16_t v;
    asm("ld.global.nc.b16 %0, [%1];" : "=h"(v) : "l"(a));
    return detail::bits<T>(v);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t v;
    asm("ld.global.nc.b32 %0, [%1];" : "=r"(v) : "l"(a));
    return detail::bits<T>(v);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t v;
    asm("ld.global.nc.b64 %0, [%1];" : "=l"(v) : "l"(a));
    return detail::bits<T>(v);
  } else {
    static_assert(sizeof(T) == 16);
    uint4 v;
    asm("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(a));
    return detail::bits<T>(v);
  }
}

// The compiler may run the assembly of ld_nc() ahead of a question that guards it; it knows better of this one.
EP_DEVICE int32_t ld_nc_or(const int32_t* p, int32_t otherwise) { return p ? __ldg(p) : otherwise; }

template <class T>
EP_DEVICE void st(T* p, const detail::SameAs<T>& value) {
  if constexpr (sizeof(T) == 1) {
    asm volatile("st.u8 [%0], %1;" ::"l"(p), "r"(uint32_t{detail::bits<uint8_t>(value)}) : "memory");
  } else if constexpr (sizeof(T) == 2) {
    asm volatile("st.b16 [%0], %1;" ::"l"(p), "h"(detail::bits<uint16_t>(value)) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.b32 [%0], %1;" ::"l"(p), "r"(detail::bits<uint32_t>(value)) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("st.b64 [%0], %1;" ::"l"(p), "l"(detail::bits<uint64_t>(value)) : "memory");
  } else {
    static_assert(sizeof(T) == 16);
    const uint4 v = detail::bits<uint4>(value);
    asm volatile("st.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
  }
}

// Addresses of shared memory have half as many bits, and their sums cost half as much.
template <class T>
EP_DEVICE T ld_shared(const T* p) {
  static_assert(sizeof(T) == 16);
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(detail::shared_address(p))
               : "memory");
  return detail::bits<T>(v);
}
template <class T>
EP_DEVICE void st_shared(T* p, const detail::SameAs<T>& value) {
  const uint32_t a = detail::shared_address(p);
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(a), "r"(detail::bits<uint32_t>(value)) : "memory");
  } else {
    static_assert(sizeof(T) == 8);
    asm volatile("st.shared.b64 [%0], %1;" ::"r"(a), "l"(detail::bits<uint64_t>(value)) : "memory");
  }
}

// ---- sync accesses

// The PTX text of an instruction must be a literal, so its qualifiers are chosen by these macros.
#define EP_WITH_SCOPE(scope, order, INSTRUCTION) \
  if constexpr (scope == Scope::block) {         \
    INSTRUCTION(order ".cta")                    \
  } else if constexpr (scope == Scope::gpu) {    \
    INSTRUCTION(order ".gpu.global")             \
  } else {                                       \
    INSTRUCTION(order ".sys.global")             \
  }
#define EP_WITH_ORDER(order, scope, INSTRUCTION)  \
  if constexpr (order == Order::relaxed) {        \
    EP_WITH_SCOPE(scope, ".relaxed", INSTRUCTION) \
  } else if constexpr (order == Order::acquire) { \
    EP_WITH_SCOPE(scope, ".acquire", INSTRUCTION) \
  } else if constexpr (order == Order::release) { \
    EP_WITH_SCOPE(scope, ".release", INSTRUCTION) \
  } else {                                        \
    EP_WITH_SCOPE(scope, ".acq_rel", INSTRUCTION) \
  }

#define EP_LOAD(semantics)                                                                                    \
  if constexpr (sizeof(T) == 4) {                                                                             \
    asm volatile("ld" semantics ".b32 %0, [%1];" : "=r"(value) : "l"(detail::address<kScope>(p)) : "memory"); \
  } else {                                                                                                    \
    asm volatile("ld" semantics ".b64 %0, [%1];" : "=l"(value) : "l"(detail::address<kScope>(p)) : "memory"); \
  }

template <Scope kScope, class T>
EP_DEVICE T ld_relaxed(const T* p) {
  static_assert(detail::kIsWord<T>);
  T value;
  EP_WITH_SCOPE(kScope, ".relaxed", EP_LOAD)
  return value;
}

template <Scope kScope, class T>
EP_DEVICE T ld_acquire(const T* p) {
  static_assert(detail::kIsWord<T>);
  T value;
  EP_WITH_SCOPE(kScope, ".acquire", EP_LOAD)
  return value;
}

#define EP_STORE(semantics)                                                                                 \
  if constexpr (sizeof(T) == 4) {                                                                           \
    asm volatile("st" semantics ".b32 [%0], %1;" ::"l"(detail::address<kScope>(p)), "r"(value) : "memory"); \
  } else {                                                                                                  \
    asm volatile("st" semantics ".b64 [%0], %1;" ::"l"(detail::address<kScope>(p)), "l"(value) : "memory"); \
  }

template <Scope kScope, class T>
EP_DEVICE void st_relaxed(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  EP_WITH_SCOPE(kScope, ".relaxed", EP_STORE)
}

template <Scope kScope, class T>
EP_DEVICE void st_release(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  EP_WITH_SCOPE(kScope, ".release", EP_STORE)
}

#define EP_ATOMIC(operation)                                   \
  if constexpr (sizeof(T) == 4) {                              \
    asm volatile("atom" operation "32 %0, [%1], %2;"           \
                 : "=r"(old)                                   \
                 : "l"(detail::address<kScope>(p)), "r"(value) \
                 : "memory");                                  \
  } else {                                                     \
    asm volatile("atom" operation "64 %0, [%1], %2;"           \
                 : "=l"(old)                                   \
                 : "l"(detail::address<kScope>(p)), "l"(value) \
                 : "memory");                                  \
  }
#define EP_ATOMIC_ADD(semantics) EP_ATOMIC(semantics ".add.u")
#define EP_ATOMIC_OR(semantics) EP_ATOMIC(semantics ".or.b")
#define EP_ATOMIC_EXCHANGE(semantics) EP_ATOMIC(semantics ".exch.b")
#define EP_ATOMIC_CAS(semantics)                                              \
  if constexpr (sizeof(T) == 4) {                                             \
    asm volatile("atom" semantics ".cas.b32 %0, [%1], %2, %3;"                \
                 : "=r"(old)                                                  \
                 : "l"(detail::address<kScope>(p)), "r"(expected), "r"(value) \
                 : "memory");                                                 \
  } else {                                                                    \
    asm volatile("atom" semantics ".cas.b64 %0, [%1], %2, %3;"                \
                 : "=l"(old)                                                  \
                 : "l"(detail::address<kScope>(p)), "l"(expected), "l"(value) \
                 : "memory");                                                 \
  }

// Within a block and without an order, the compiler's own atomics say the same as the asm, and where the compiler sees
// that memory is shared it takes the faster instructions for it.
template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_add(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  if constexpr (kOrder == Order::relaxed && kScope == Scope::block) {
    using Native = detail::NativeOf<T>;
    return static_cast<T>(atomicAdd_block(reinterpret_cast<Native*>(p), static_cast<Native>(value)));
  }
  T old;
  EP_WITH_ORDER(kOrder, kScope, EP_ATOMIC_ADD)
  return old;
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_or(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  if constexpr (kOrder == Order::relaxed && kScope == Scope::block) {
    using Native = detail::NativeOf<T>;
    return static_cast<T>(atomicOr_block(reinterpret_cast<Native*>(p), static_cast<Native>(value)));
  }
  T old;
  EP_WITH_ORDER(kOrder, kScope, EP_ATOMIC_OR)
  return old;
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_exchange(T* p, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  T old;
  EP_WITH_ORDER(kOrder, kScope, EP_ATOMIC_EXCHANGE)
  return old;
}

template <Order kOrder, Scope kScope, class T>
EP_DEVICE T atomic_cas(T* p, detail::SameAs<T> expected, detail::SameAs<T> value) {
  static_assert(detail::kIsWord<T>);
  T old;
  EP_WITH_ORDER(kOrder, kScope, EP_ATOMIC_CAS)
  return old;
}

template <Scope kScope>
EP_DEVICE void fence() {
  if constexpr (kScope == Scope::block) {
    asm volatile("fence.acq_rel.cta;" ::: "memory");
  } else if constexpr (kScope == Scope::gpu) {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
  } else {
    asm volatile("fence.acq_rel.sys;" ::: "memory");
  }
}

#undef EP_ATOMIC_CAS
#undef EP_ATOMIC_EXCHANGE
#undef EP_ATOMIC_OR
#undef EP_ATOMIC_ADD
#undef EP_ATOMIC
#undef EP_STORE
#undef EP_LOAD
#undef EP_WITH_ORDER
#undef EP_WITH_SCOPE

// ---- units

namespace detail {

EP_DEVICE uint64_t low_half(const Unit& unit) { return uint64_t{unit.word[1]} << 32 | unit.word[0]; }
EP_DEVICE uint64_t high_half(const Unit& unit) { return uint64_t{unit.epoch} << 32 | unit.word[2]; }
EP_DEVICE Unit unit_from_halves(uint64_t low, uint64_t high) {
  return Unit{{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high)},
              static_cast<uint32_t>(high >> 32)};
}

}  // namespace detail

// A scalar .b128 access is single-copy atomic; a vector of four words is four accesses in the memory model.
EP_DEVICE Unit ld_unit(const Unit* p) {
  uint64_t low, high;
  asm volatile(
      "{\n"
      ".reg .b128 unit;\n"
      "ld.relaxed.sys.global.b128 unit, [%2];\n"
      "mov.b128 {%0, %1}, unit;\n"
      "}"
      : "=l"(low), "=l"(high)
      : "l"(detail::global_address(p))
      : "memory");
  return detail::unit_from_halves(low, high);
}

EP_DEVICE void st_unit(Unit* p, const Unit& unit) {
  asm volatile(
      "{\n"
      ".reg .b128 unit;\n"
      "mov.b128 unit, {%1, %2};\n"
      "st.relaxed.sys.global.b128 [%0], unit;\n"
      "}" ::"l"(detail::global_address(p)),
      "l"(detail::low_half(unit)), "l"(detail::high_half(unit))
      : "memory");
}

// ---- lines

// What the lanes of one instruction access in a line of 128 bytes goes through the caches and NVLink as one packet. The
// memory model promises less, each lane's sixteen bytes. Lanes that come together from __syncwarp, with a predicate and
// no branch, make it one instruction. Loads have no predicate: what it leaves a lane without would have to be moved to its
// place behind the load, which so would be waited for before the next one.
EP_DEVICE Unit ld_line(const Unit* part) {
  __syncwarp();
  return ld_unit(part);
}

EP_DEVICE void st_line(Unit* part, const Unit& unit, bool active) {
  __syncwarp();
  asm volatile(
      "{\n"
      ".reg .pred active;\n"
      ".reg .b128 unit;\n"
      "setp.ne.u32 active, %3, 0;\n"
      "mov.b128 unit, {%1, %2};\n"
      "@active st.relaxed.sys.global.b128 [%0], unit;\n"
      "}" ::"l"(detail::global_address(part)),
      "l"(detail::low_half(unit)), "l"(detail::high_half(unit)), "r"(uint32_t{active})
      : "memory");
}

// ---- warp and block

EP_DEVICE void sync_warp() { __syncwarp(); }
EP_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(detail::kWarp, predicate); }
EP_DEVICE bool all(bool predicate) { return __all_sync(detail::kWarp, predicate); }
EP_DEVICE bool any(bool predicate) { return __any_sync(detail::kWarp, predicate); }
// Values of 4 or 8 bytes, whatever their type.
template <class T>
EP_DEVICE T shfl(T value, uint32_t lane) {
  using Word = detail::WordOf<T>;
  return detail::bits<T>(__shfl_sync(detail::kWarp, detail::bits<Word>(value), static_cast<int>(lane)));
}
template <class T>
EP_DEVICE T shfl_xor(T value, uint32_t mask) {
  using Word = detail::WordOf<T>;
  return detail::bits<T>(__shfl_xor_sync(detail::kWarp, detail::bits<Word>(value), static_cast<int>(mask)));
}
EP_DEVICE uint32_t sum_warp(uint32_t value) { return __reduce_add_sync(detail::kWarp, value); }
EP_DEVICE uint32_t max_warp(uint32_t value) { return __reduce_max_sync(detail::kWarp, value); }
EP_DEVICE uint32_t or_warp(uint32_t value) { return __reduce_or_sync(detail::kWarp, value); }

EP_DEVICE uint32_t popc(uint32_t bits) { return static_cast<uint32_t>(__popc(bits)); }
EP_DEVICE uint32_t popc(uint64_t bits) { return static_cast<uint32_t>(__popcll(bits)); }
EP_DEVICE int32_t find_first(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }
EP_DEVICE int32_t find_first(uint64_t bits) { return __ffsll(static_cast<long long>(bits)) - 1; }

EP_DEVICE void sync_block() { __syncthreads(); }
EP_DEVICE bool all_in_block(bool pred) { return __syncthreads_and(pred); }
EP_DEVICE void bar_sync(uint32_t id, uint32_t num_threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}
EP_DEVICE void bar_arrive(uint32_t id, uint32_t num_threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// ---- mbarrier and bulk copy

EP_DEVICE void mbar_init(Mbarrier* bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(detail::shared_address(bar)), "r"(arrivals) : "memory");
}

EP_DEVICE void mbar_inval(Mbarrier* bar) {
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(detail::shared_address(bar)) : "memory");
}

// The copy engine works through the async proxy, so initialisation needs that fence too.
EP_DEVICE void fence_mbar_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

EP_DEVICE void mbar_arrive(Mbarrier* bar) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(detail::shared_address(bar)) : "memory");
}

EP_DEVICE void mbar_arrive_expect_tx(Mbarrier* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(detail::shared_address(bar)),
               "r"(bytes)
               : "memory");
}

EP_DEVICE bool mbar_test(Mbarrier* bar, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(detail::shared_address(bar)), "r"(parity)
      : "memory");
  return done != 0;
}

// try_wait is test_wait that the hardware may suspend for a while.
EP_DEVICE void mbar_wait(Mbarrier* bar, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(detail::shared_address(bar)), "r"(parity)
        : "memory");
  } while (done == 0);
}

EP_DEVICE void bulk_load(void* shared_dst, const void* global_src, uint32_t bytes, Mbarrier* bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   detail::shared_address(shared_dst)),
               "l"(detail::global_address(global_src)), "r"(bytes), "r"(detail::shared_address(bar))
               : "memory");
}

EP_DEVICE void bulk_store(void* global_dst, const void* shared_src, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(detail::global_address(global_dst)),
               "r"(detail::shared_address(shared_src)), "r"(bytes)
               : "memory");
}

EP_DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kUnfinished>
EP_DEVICE void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kUnfinished) : "memory");
}
template <int kUnread>
EP_DEVICE void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kUnread) : "memory");
}

// Without a state space the fence includes other blocks' shared memory, at the price of a GPU-wide barrier.
EP_DEVICE void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// ---- time and numbers

constexpr uint32_t kPollsBeforeClock = 64;
EP_DEVICE uint64_t clock_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

EP_DEVICE void pause() { __nanosleep(20); }

EP_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
EP_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
EP_DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }

EP_DEVICE float reciprocal(float value) { return __frcp_rn(value); }
EP_DEVICE float max_abs(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(fabsf(a)), "f"(fabsf(b)));
  return most;
}

EP_DEVICE float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
EP_DEVICE uint32_t bits_from_float(float value) { return __float_as_uint(value); }

EP_DEVICE float float_from_bf16(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
EP_DEVICE uint16_t bf16_from_float(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
EP_DEVICE float float_from_fp16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
EP_DEVICE uint16_t fp16_from_float(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
EP_DEVICE uint16_t e4m3x2_from_floats(float low, float high) {
  uint16_t bits;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
  return bits;
}
EP_DEVICE void floats_from_e4m3x2(uint16_t bits, float& low, float& high) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(bits));
  low = float_from_fp16(static_cast<uint16_t>(halves));
  high = float_from_fp16(static_cast<uint16_t>(halves >> 16));
}

#if __CUDA_ARCH__ >= 1000  // all of them are compiled for with their own features (sm_100a), which have E2M1
EP_DEVICE uint32_t e2m1x8_from_floats(const float (&value)[8]) {
  uint32_t bits;
  asm("{\n"
      ".reg .b8 pair<4>;\n"
      "cvt.rn.satfinite.e2m1x2.f32 pair0, %2, %1;\n"
      "cvt.rn.satfinite.e2m1x2.f32 pair1, %4, %3;\n"
      "cvt.rn.satfinite.e2m1x2.f32 pair2, %6, %5;\n"
      "cvt.rn.satfinite.e2m1x2.f32 pair3, %8, %7;\n"
      "mov.b32 %0, {pair0, pair1, pair2, pair3};\n"
      "}"
      : "=r"(bits)
      : "f"(value[0]), "f"(value[1]), "f"(value[2]), "f"(value[3]), "f"(value[4]), "f"(value[5]), "f"(value[6]),
        "f"(value[7]));
  return bits;
}
EP_DEVICE void floats_from_e2m1x8(uint32_t bits, float (&value)[8]) {
  uint32_t halves[4];
  asm("{\n"
      ".reg .b8 pair<4>;\n"
      "mov.b32 {pair0, pair1, pair2, pair3}, %4;\n"
      "cvt.rn.f16x2.e2m1x2 %0, pair0;\n"
      "cvt.rn.f16x2.e2m1x2 %1, pair1;\n"
      "cvt.rn.f16x2.e2m1x2 %2, pair2;\n"
      "cvt.rn.f16x2.e2m1x2 %3, pair3;\n"
      "}"
      : "=r"(halves[0]), "=r"(halves[1]), "=r"(halves[2]), "=r"(halves[3])
      : "r"(bits));
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) value[i] = float_from_fp16(static_cast<uint16_t>(halves[i / 2] >> 16 * (i % 2)));
}
#else
namespace detail {

// E2M1 numbers are the multiples of 1/2 up to 2, of 1 up to 4, and of 2 up to 6. Added to a float whose lowest bit means
// as much, a magnitude leaves there the number of multiples. From 2 on and from 4 on there are two more below.
EP_DEVICE uint32_t e2m1_from_float(float value) {
  constexpr uint32_t kOne = 127u << 23, kExponent = 0x7f800000;
  if (value != value) return 7;
  const float magnitude = fminf(fabsf(value), 6.0f);
  const uint32_t exponent = max(__float_as_uint(magnitude) & kExponent, kOne);
  const uint32_t multiples = __float_as_uint(__fadd_rn(magnitude, __uint_as_float(exponent + (22u << 23)))) & 7;
  return (__float_as_uint(value) >> 28 & 8) | (multiples + ((exponent - kOne) >> 22));
}

}  // namespace detail

EP_DEVICE uint32_t e2m1x8_from_floats(const float (&value)[8]) {
  uint32_t bits = 0;
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) bits |= detail::e2m1_from_float(value[i]) << 4 * i;
  return bits;
}
// A number's exponent and mantissa, moved to where a float has them, are 2^126 times too small.
EP_DEVICE void floats_from_e2m1x8(uint32_t bits, float (&value)[8]) {
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t number = bits >> 4 * i;
    value[i] = __fmul_rn(__uint_as_float((number & 8) << 28 | (number & 7) << 22), 0x1p126f);
  }
}
#endif

}  // namespace nccl_ep::dev

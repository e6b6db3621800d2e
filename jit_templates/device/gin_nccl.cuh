// SPDX-License-Identifier: Apache-2.0
// GIN on a GPU: NCCL's device API under our names. gin.hpp has the contract and includes this.
//
// Compiled by NVRTC with NCCL's headers as src/jit/header_rewrite.cpp changes them, for the backends PROXY and GDAKI.
// Which of them a communicator has is asked at run time, by NCCL.
#pragma once

#include <nccl_device.h>

#include "device/cuda.cuh"

namespace nccl_ep::dev {

// Layouts that NICs and NCCL's proxy read: a compiler that ignores an attribute must not go on.
static_assert(sizeof(ncclGinProxyGfd_t) == 128 && alignof(ncclGinProxyGfd_t) == 16);
static_assert(sizeof(doca_gpu_dev_verbs_wqe) == 64);
static_assert(sizeof(doca_gpunetio_ib_mlx5_wqe_ctrl_seg) == 16);
static_assert(sizeof(doca_gpunetio_ib_mlx5_wqe_raddr_seg) == 16);
static_assert(sizeof(doca_gpunetio_ib_mlx5_wqe_data_seg) == 16);
static_assert(sizeof(doca_gpunetio_ib_mlx5_wqe_atomic_seg) == 16);

// One context. Threads of any blocks may share it; no descriptors in shared memory, which NCCL before 2.32 declares
// smaller than it writes.
class Gin {
 public:
  EP_DEVICE Gin(const GinComm& comm, uint32_t context)
      : gin_(*reinterpret_cast<const ncclDevComm*>(comm.handle), static_cast<int>(context),
             NCCL_GIN_RESOURCE_SHARING_GPU) {}

  EP_DEVICE void put(uint32_t peer, WindowAddress dst, WindowAddress src, uint64_t bytes, SignalAction at_peer = {},
                     uint32_t counter = kNoCounter) const {
    with_action(at_peer, [&](auto action) {
      if (counter == kNoCounter) {
        put_with(peer, dst, src, bytes, action, ncclGin_None{});
      } else {
        put_with(peer, dst, src, bytes, action, ncclGin_WeakCounterInc{counter});
      }
    });
  }

  EP_DEVICE void put_value(uint32_t peer, WindowAddress dst, uint64_t value, uint32_t bytes,
                           SignalAction at_peer = {}) const {
    with_action(at_peer, [&](auto action) {
      switch (bytes) {
        case 1: return put_value_with(peer, dst, static_cast<uint8_t>(value), action);
        case 2: return put_value_with(peer, dst, static_cast<uint16_t>(value), action);
        case 4: return put_value_with(peer, dst, static_cast<uint32_t>(value), action);
        case 8: return put_value_with(peer, dst, value, action);
      }
    });
  }

  EP_DEVICE void signal(uint32_t peer, SignalAction at_peer) const {
    with_action(at_peer, [&](auto action) { signal_with(peer, action); });
  }

  // NCCL's get releases nothing, but what it overwrites may have been written just now.
  EP_DEVICE void get(uint32_t peer, WindowAddress src, WindowAddress local_dst, uint64_t bytes) const {
    fence<Scope::system>();
    gin_.get(world(), static_cast<int>(peer), src.window, src.offset, local_dst.window, local_dst.offset, bytes);
  }

  // NCCL's flush does not acquire where another thread's flush has made the gets visible, nor for puts.
  EP_DEVICE void flush() const {
    gin_.flush(ncclCoopThread{});
    fence<Scope::system>();
  }
  // NCCL before 2.31 has none that ends.
  EP_DEVICE bool flush_within(uint64_t ns) const {
#if NCCL_VERSION_CODE < 23100
    flush();
    return true;
#else
    constexpr uint64_t kCyclesPerNs = 2;  // of the fastest clocks
    const auto cycles = kCyclesPerNs * ns;
    const bool done = gin_.flush(ncclCoopThread{}, cuda::memory_order_acquire, ncclGin_None{}, cycles) == ncclSuccess;
    fence<Scope::system>();
    return done;
#endif
  }

  EP_DEVICE uint64_t read_signal(Signal signal) const {
    if (signal.window != nullptr) return gin_.readSignal(signal.window, signal.index);
    return gin_.readSignal(static_cast<ncclGinSignal_t>(signal.index));
  }
  EP_DEVICE void wait_signal(Signal signal, uint64_t least) const {
    while (static_cast<int64_t>(read_signal(signal) - least) < 0) pause();
  }
  EP_DEVICE void reset_signal(Signal signal) const {
    if (signal.window != nullptr) {
      gin_.resetSignal(signal.window, signal.index);
    } else {
      gin_.resetSignal(static_cast<ncclGinSignal_t>(signal.index));
    }
  }

  EP_DEVICE uint64_t read_counter(uint32_t counter) const { return gin_.readCounter(counter); }
  EP_DEVICE void wait_counter(uint32_t counter, uint64_t least) const {
    constexpr uint32_t kUnusedBits = 64 - 56;
    while (static_cast<int64_t>((read_counter(counter) - least) << kUnusedBits) < 0) pause();
  }
  EP_DEVICE void reset_counter(uint32_t counter) const { gin_.resetCounter(counter); }

 private:
  // Nothing has been released yet, and all of it must be, for peers as for the network.
  static constexpr cuda::thread_scope kReleased = cuda::thread_scope_thread;
  static constexpr cuda::thread_scope kToRelease = cuda::thread_scope_system;

  EP_DEVICE ncclTeam world() const { return ncclTeamWorld(gin_.comm); }

  // NCCL has a type for each action. Adding one is the same as its increments, and mixes with other values. A signal in a
  // window is always strong: the proxy sends it apart from its put, and a weak one would not wait for that.
  template <class Act>
  EP_DEVICE static void with_action(SignalAction action, Act act) {
    const auto id = static_cast<ncclGinSignal_t>(action.signal.index);
    if (action.strength == SignalAction::kNone) {
      act(ncclGin_None{});
    } else if (action.signal.window != nullptr) {
      act(ncclGin_StrongVASignalAdd{action.signal.window, action.signal.index, action.value});
    } else if (action.strength == SignalAction::kStrong) {
      act(ncclGin_StrongSignalAdd{id, action.value});
    } else {
      act(ncclGin_WeakSignalAdd{id, action.value});
    }
  }

  template <class Action, class Counter>
  EP_DEVICE void put_with(uint32_t peer, WindowAddress dst, WindowAddress src, uint64_t bytes, Action action,
                          Counter counter) const {
    gin_.put(world(), static_cast<int>(peer), dst.window, dst.offset, src.window, src.offset, bytes, action, counter,
             ncclCoopThread{}, ncclGin_None{}, kReleased, kToRelease);
  }

  template <class T, class Action>
  EP_DEVICE void put_value_with(uint32_t peer, WindowAddress dst, T value, Action action) const {
    gin_.putValue(world(), static_cast<int>(peer), dst.window, dst.offset, value, action, ncclCoopThread{},
                  ncclGin_None{}, kReleased, kToRelease);
  }

  template <class Action>
  EP_DEVICE void signal_with(uint32_t peer, Action action) const {
    gin_.signal(world(), static_cast<int>(peer), action, ncclCoopThread{}, ncclGin_None{}, kReleased, kToRelease);
  }
  EP_DEVICE void signal_with(uint32_t, ncclGin_None) const {}

  ncclGin gin_;
};

}  // namespace nccl_ep::dev

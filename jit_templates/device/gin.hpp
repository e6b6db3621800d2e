// SPDX-License-Identifier: Apache-2.0
// GIN: one-sided transfers through the network, started by kernels. NCCL's semantics under our names.
//
// A context has a queue to every rank, the caller included. Puts and gets of a queue overtake one another.
// What can be relied on:
//   put        reads its source some time before a later flush returns, lands some time after, in pieces. It reads what
//              happens before it: the threads that have written the source meet (sync_warp, a barrier), or hand over by
//              release and acquire, before one of them puts.
//   signal     adds to a 64-bit word at the peer. When a strong signal is seen there, all puts of the same queue that
//              happen before it have landed; when a weak one is seen, only the put it rides on has.
//   counter    counts puts whose source may be overwritten.
//   flush      returns when the sources of the context's earlier puts may be overwritten and its earlier gets
//   have
//              landed. It says nothing about what has arrived at peers.
//   Different contexts are not ordered at all. A signal must not be reset while it can still arrive.
//
// Peers are world ranks. Only the simulator implements this so far.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#error "device/gin.hpp has no CUDA implementation yet"
#endif

#include "shared/gin_comm.hpp"

struct ncclWindow_vidmem;

namespace nccl_ep::dev {

// A place in a symmetric window; on which rank, the operation says.
struct WindowAddress {
  ncclWindow_vidmem* window;
  uint64_t offset;
};

// A word that signals add to: number `id` of the context, or 8 bytes of a window.
struct Signal {
  ncclWindow_vidmem* window;  // null: `index` is the number of a signal
  uint64_t index;
};
EP_HOST_DEVICE Signal signal(uint32_t id) { return {nullptr, id}; }
EP_HOST_DEVICE Signal signal(WindowAddress word) { return {word.window, word.offset}; }

struct SignalAction {
  enum Strength : uint32_t { kNone, kWeak, kStrong };
  Strength strength = kNone;
  Signal signal = {};
  uint64_t value = 0;
};
EP_HOST_DEVICE SignalAction strong(Signal signal, uint64_t value = 1) { return {SignalAction::kStrong, signal, value}; }
EP_HOST_DEVICE SignalAction weak(Signal signal, uint64_t value = 1) { return {SignalAction::kWeak, signal, value}; }

constexpr uint32_t kNoCounter = 0xffffffff;

// One context. The calls are made by single threads.
class Gin {
 public:
  Gin(const GinComm& comm, uint32_t context) : comm_(comm), context_(context) {}

  void put(uint32_t peer, WindowAddress dst, WindowAddress src, uint64_t bytes, SignalAction at_peer = {},
           uint32_t counter = kNoCounter) const;
  // The value travels with the request: nothing is read later.
  void put_value(uint32_t peer, WindowAddress dst, uint64_t value, uint32_t bytes, SignalAction at_peer = {}) const;
  void signal(uint32_t peer, SignalAction at_peer) const;
  void get(uint32_t peer, WindowAddress src, WindowAddress local_dst, uint64_t bytes) const;
  void flush() const;

  // This rank's signals. Reading acquires what the arrived signals publish.
  uint64_t read_signal(Signal signal) const;
  void wait_signal(Signal signal, uint64_t least) const;
  void reset_signal(Signal signal) const;

  uint64_t read_counter(uint32_t counter) const;
  void wait_counter(uint32_t counter, uint64_t least) const;
  void reset_counter(uint32_t counter) const;

 private:
  GinComm comm_;
  uint32_t context_;
};

}  // namespace nccl_ep::dev

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
//   counter    counts puts whose source may be overwritten. Its lower 56 bits count.
//   flush      returns when the sources of the context's earlier puts may be overwritten and its earlier gets have
//              landed. It says nothing about what has arrived at peers. It may wait for ever for peers that are gone;
//              flush_within(ns) ends then, in about twice the time at most, and says that it has waited in vain.
//   Different contexts are not ordered at all. A signal must not be reset while it can still arrive.
//
// Who may call. Single threads; any number of threads of any blocks may use a context at a time, each with a Gin of its
// own. "Earlier" among threads is what synchronisation makes it: a thread that is to send the signal for puts of other
// threads must know of them.
//
// What must be known to the caller. Every call that sends something releases, at system scope, what the calling thread
// has done and what it knows of. So a source, or a place that a get overwrites, may have been written by
//   the thread itself                      nothing more is needed
//   other lanes of its warp                after sync_warp
//   other threads of its block             after sync_block or bar_sync
//   other blocks, or ranks of its team     after acquiring, at a scope that includes them, what they have released
//   bulk_store                             after bulk_wait, in the thread that stored
// and what a signal publishes at the peer is all of that, besides the data of puts. put_value takes its value with it.
//
// What is known after. wait_signal, wait_counter, flush and flush_within acquire; read_signal and read_counter acquire
// what the value that they return publishes. Only the calling thread knows it then.
//
// Sizes. A put has at least one byte; a put_value 1, 2, 4 or 8, and its destination is aligned to that. A signal in a
// window is 8 bytes, aligned, of a window that this library has registered: others may lack the ordering that it needs.
//
// Peers are world ranks. gin_nccl.cuh implements this with NCCL's device API, src/sim/gin_device.cpp on the simulator.
#pragma once

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

}  // namespace nccl_ep::dev

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include "device/gin_nccl.cuh"
#else

namespace nccl_ep::dev {

// One context.
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
  bool flush_within(uint64_t ns) const;

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

#endif

// SPDX-License-Identifier: Apache-2.0
// Flags, counters, fences, atomics and locks: who may rely on what.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

using dev::Order;
using dev::Scope;

constexpr uint32_t kRounds = 16;
constexpr uint32_t kMessageWords = 8;

// Where the two sides of a message are.
struct Places {
  uint32_t reader_rank, reader_block, reader_thread;
};
constexpr Places kPeer{1, 0, 0}, kNextBlock{0, 1, 0}, kNextWarp{0, 0, 32};

EP_DEVICE void write_message(Test& test, uint32_t to_rank, uint32_t round) {
  for (uint32_t i = 0; i < kMessageWords; ++i) dev::st(test.data(to_rank, i), round * 100 + i);
}

EP_DEVICE void expect_message(Test& test, uint32_t rank, uint32_t round) {
  for (uint32_t i = 0; i < kMessageWords; ++i) EXPECT(dev::ld(test.data(rank, i)) == round * 100 + i);
}

// Thread (0, 0, 0) sends a message a round: `raise(flag, round)` after it, `poll(flag)` before reading it.
// The reader answers each, so that the next may overwrite it.
template <class Raise, class Poll>
EP_DEVICE void pass_messages(Test& test, Places to, Raise raise, Poll poll) {
  uint32_t *flag = test.flag(to.reader_rank), *answer = test.flag(0, 1);
  for (uint32_t round = 1; round <= kRounds; ++round) {
    if (test.is(0, 0, 0)) {
      write_message(test, to.reader_rank, round);
      raise(flag, round);
      AWAIT(dev::ld_acquire<Scope::system>(answer) == round);
    }
    if (test.is(to.reader_rank, to.reader_block, to.reader_thread)) {
      AWAIT(poll(flag) == round);
      expect_message(test, to.reader_rank, round);
      dev::st_release<Scope::system>(answer, round);
    }
  }
}

#define RELEASE(scope) [](uint32_t* flag, uint32_t round) { dev::st_release<Scope::scope>(flag, round); }
#define ACQUIRE(scope) [](uint32_t* flag) { return dev::ld_acquire<Scope::scope>(flag); }
#define STORE(scope) [](uint32_t* flag, uint32_t round) { dev::st_relaxed<Scope::scope>(flag, round); }
#define LOAD(scope) [](uint32_t* flag) { return dev::ld_relaxed<Scope::scope>(flag); }

LITMUS(message_system) { pass_messages(test, kPeer, RELEASE(system), ACQUIRE(system)); }
LITMUS(message_gpu) { pass_messages(test, kNextBlock, RELEASE(gpu), ACQUIRE(gpu)); }
LITMUS(message_block) { pass_messages(test, kNextWarp, RELEASE(block), ACQUIRE(block)); }
LITMUS(message_relaxed_store) { pass_messages(test, kPeer, STORE(system), ACQUIRE(system)); }
LITMUS(message_relaxed_load) { pass_messages(test, kPeer, RELEASE(system), LOAD(system)); }
LITMUS(message_release_too_narrow) { pass_messages(test, kPeer, RELEASE(gpu), ACQUIRE(system)); }
LITMUS(message_acquire_too_narrow) { pass_messages(test, kPeer, RELEASE(system), ACQUIRE(gpu)); }
LITMUS(message_block_scope_between_blocks) { pass_messages(test, kNextBlock, RELEASE(block), ACQUIRE(block)); }

#define FENCE_STORE(scope)                       \
  [](uint32_t* flag, uint32_t round) {           \
    dev::fence<Scope::scope>();                  \
    dev::st_relaxed<Scope::system>(flag, round); \
  }
// The fence comes after every poll, so also after the one that succeeds.
#define LOAD_FENCE(scope)                                       \
  [](uint32_t* flag) {                                          \
    const uint32_t seen = dev::ld_relaxed<Scope::system>(flag); \
    dev::fence<Scope::scope>();                                 \
    return seen;                                                \
  }

LITMUS(fences) { pass_messages(test, kPeer, FENCE_STORE(system), LOAD_FENCE(system)); }
LITMUS(fence_to_acquire) { pass_messages(test, kPeer, FENCE_STORE(system), ACQUIRE(system)); }
LITMUS(fence_missing_at_writer) { pass_messages(test, kPeer, STORE(system), LOAD_FENCE(system)); }
LITMUS(fence_missing_at_reader) { pass_messages(test, kPeer, FENCE_STORE(system), LOAD(system)); }
LITMUS(fence_too_narrow) { pass_messages(test, kPeer, FENCE_STORE(gpu), LOAD_FENCE(system)); }

LITMUS(fence_before_data) {
  uint32_t* flag = test.flag(1);
  if (test.is(0, 0, 0)) {
    dev::fence<Scope::system>();
    write_message(test, 1, 0);
    dev::st_relaxed<Scope::system>(flag, 1u);
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_acquire<Scope::system>(flag) == 1);
    expect_message(test, 1, 0);
  }
}

// Three threads: one writes, one passes the flag on with `pass_on`, one reads.
template <class PassOn>
EP_DEVICE void relay(Test& test, PassOn pass_on) {
  uint32_t* flag = test.flag(0);
  if (test.is(0, 0, 0)) {
    write_message(test, 0, 0);
    dev::st_release<Scope::system>(flag, 1u);
  }
  if (test.is(0, 1, 0)) {
    AWAIT(dev::ld_relaxed<Scope::system>(flag) == 1);
    pass_on(flag);
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_relaxed<Scope::system>(flag) == 2);  // so that nothing is acquired from the first value
    EXPECT(dev::ld_acquire<Scope::system>(flag) == 2);
    expect_message(test, 0, 0);
  }
}

LITMUS(release_sequence) {
  relay(test, [](uint32_t* flag) { dev::atomic_add<Order::relaxed, Scope::system>(flag, 1u); });
}
LITMUS(release_sequence_broken_by_store) {
  relay(test, [](uint32_t* flag) { dev::st_relaxed<Scope::system>(flag, 2u); });
}

LITMUS(knowledge_is_passed_on) {
  if (test.is(0, 0, 0)) {
    write_message(test, 1, 0);
    dev::st_release<Scope::gpu>(test.flag(0), 1u);
  }
  if (test.is(0, 1, 0)) {
    AWAIT(dev::ld_acquire<Scope::gpu>(test.flag(0)) == 1);
    dev::st_release<Scope::system>(test.flag(1), 1u);
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_acquire<Scope::system>(test.flag(1)) == 1);
    expect_message(test, 1, 0);
  }
}

// All threads of the grid write a word and count themselves; the last one reads all words.
template <Order kOrder>
EP_DEVICE void count_in(Test& test) {
  const uint32_t num_threads = dev::num_blocks() * dev::num_threads();
  const uint32_t me = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  *test.data(0, me) = scramble(me);
  const uint32_t before = dev::atomic_add<kOrder, Scope::gpu>(test.flag(0), 1u);
  EXPECT(before < num_threads);
  if (before + 1 != num_threads) return;
  for (uint32_t i = 0; i < num_threads; ++i) EXPECT(*test.data(0, i) == scramble(i));
}

LITMUS(counter) { count_in<Order::acq_rel>(test); }
LITMUS(counter_without_acquire) { count_in<Order::release>(test); }
LITMUS(counter_without_release) { count_in<Order::acquire>(test); }

// One thread of each warp adds to a plain counter under a lock. kTurns each, so that all wait for one
// another.
template <Order kLock, bool kReleases>
EP_DEVICE void take_turns(Test& test) {
  constexpr uint32_t kTurns = 4;
  uint32_t *lock = test.flag(0), *done = test.flag(0, 1), *counter = test.data(0);
  if (dev::lane_idx() != 0) return;
  for (uint32_t turn = 0; turn < kTurns; ++turn) {
    AWAIT(dev::atomic_cas<kLock, Scope::gpu>(lock, 0u, 1u) == 0);
    *counter = *counter + 1;
    if (kReleases) {
      dev::st_release<Scope::gpu>(lock, 0u);
    } else {
      dev::st_relaxed<Scope::gpu>(lock, 0u);
    }
  }
  const uint32_t num_warps = dev::num_blocks() * dev::num_warps();
  if (dev::atomic_add<Order::acq_rel, Scope::gpu>(done, 1u) + 1 == num_warps) {
    EXPECT(*counter == num_warps * kTurns);
  }
}

LITMUS(lock) { take_turns<Order::acquire, true>(test); }
LITMUS(lock_without_acquire) { take_turns<Order::relaxed, true>(test); }
LITMUS(lock_without_release) { take_turns<Order::acquire, false>(test); }

// What atomics return and leave, in both widths and between ranks.
template <class T>
EP_DEVICE void try_atomics(Test& test, uint32_t at) {
  const T high = static_cast<T>(1) << (8 * sizeof(T) - 1);
  T* word = test.data<T>(0, at);
  if (test.is(test.args.num_ranks - 1, 0, 0)) {
    EXPECT(dev::atomic_add<Order::relaxed, Scope::system>(word, high) == 0);
    EXPECT(dev::atomic_or<Order::acquire, Scope::system>(word, static_cast<T>(5)) == high);
    EXPECT(dev::atomic_cas<Order::acq_rel, Scope::system>(word, static_cast<T>(5), high) == (high | 5));
    EXPECT(dev::atomic_cas<Order::acq_rel, Scope::system>(word, static_cast<T>(high | 5), static_cast<T>(7)) ==
           (high | 5));
    EXPECT(dev::atomic_exchange<Order::release, Scope::system>(word, static_cast<T>(9)) == 7);
    EXPECT(dev::atomic_add<Order::acq_rel, Scope::system>(word, static_cast<T>(-10)) == 9);
    EXPECT(dev::ld_relaxed<Scope::system>(word) == static_cast<T>(-1));
  }
}

LITMUS(atomics) {
  try_atomics<uint32_t>(test, 0);
  try_atomics<uint64_t>(test, 64);
}

// Polling the data itself.
LITMUS(message_without_flag) {
  if (test.is(0, 0, 0)) write_message(test, 1, 0);
  if (test.is(1, 0, 0)) AWAIT(dev::ld(test.data(1, 7)) == 7);
}

// Waits for a flag that nobody raises.
LITMUS(flag_never_raised) {
  if (test.is(0, 0, 0)) {
    while (dev::ld_acquire<Scope::system>(test.flag(0)) == 0) dev::pause();
  }
}

}  // namespace nccl_ep::litmus

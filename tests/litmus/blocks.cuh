// SPDX-License-Identifier: Apache-2.0
// Block barriers, named barriers, shared memory, identities and clocks.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

LITMUS(identity) {
  EXPECT(dev::thread_idx() < dev::num_threads() && dev::block_idx() < dev::num_blocks());
  EXPECT(dev::lane_idx() == dev::thread_idx() % 32 && dev::warp_idx() == dev::thread_idx() / 32);
  EXPECT(dev::num_warps() * 32 == dev::num_threads());
  const uint32_t me = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  EXPECT(dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(test.data(args.rank, me), 1u) == 0);
}

// Everyone writes a word and reads that of a thread of another warp after `meet`, several times over.
template <class Meet>
EP_DEVICE void read_across(Test& test, Meet meet) {
  EP_SHARED(uint32_t, words, [1024]);
  const uint32_t me = dev::thread_idx(), other = (me + 37) % dev::num_threads();
  for (uint32_t round = 0; round < 4; ++round) {
    words[me] = scramble(me + round);
    meet();
    EXPECT(words[other] == scramble(other + round));
    meet();
  }
}

LITMUS(sync_block) {
  read_across(test, [] { dev::sync_block(); });
}
LITMUS(sync_block_missing) {
  read_across(test, [] { dev::sync_warp(); });
}
LITMUS(all_in_block) {
  read_across(test, [&] { EXPECT(dev::all_in_block(true)); });
  const uint32_t me = dev::thread_idx();
  for (uint32_t who = 0; who < dev::num_threads(); who += 31) EXPECT(!dev::all_in_block(me != who));
  EXPECT(!dev::all_in_block(false));
  EXPECT(dev::all_in_block(true));
}
LITMUS(bar_sync) {
  read_across(test, [] { dev::bar_sync(3, dev::num_threads()); });
}
LITMUS(bar_sync_half) {
  // Two barriers of two warps each: word 37 further on belongs to the other pair.
  read_across(test, [] { dev::bar_sync(1 + dev::warp_idx() / 2, 64); });
}

// The second warp fills a buffer for the first one, over and over: `full` and `empty` are barriers that one
// side only arrives at.
LITMUS(named_barriers) {
  EP_SHARED(uint32_t, words, [32]);
  constexpr uint32_t kFull = 1, kEmpty = 2, kNumRounds = 6;
  const uint32_t lane = dev::lane_idx();
  for (uint32_t round = 0; round < kNumRounds; ++round) {
    if (dev::warp_idx() == 1) {
      if (round > 0) dev::bar_sync(kEmpty, 64);
      words[lane] = scramble(lane + round);
      dev::bar_arrive(kFull, 64);
    } else {
      dev::bar_sync(kFull, 64);
      EXPECT(words[31 - lane] == scramble(31 - lane + round));
      if (round + 1 < kNumRounds) dev::bar_arrive(kEmpty, 64);
    }
  }
}

// Who only arrives learns nothing.
LITMUS(bar_arrive_orders_nothing) {
  EP_SHARED(uint32_t, words, [32]);
  const uint32_t lane = dev::lane_idx();
  if (dev::warp_idx() == 0) {
    words[lane] = scramble(lane);
    dev::bar_sync(1, 64);
  } else {
    dev::bar_arrive(1, 64);
    EXPECT(words[lane] == scramble(lane));
  }
}

// What is done after arriving is not passed on, whether or not the barrier is complete by then.
LITMUS(bar_arrive_before_writing) {
  EP_SHARED(uint32_t, words, [32]);
  const uint32_t lane = dev::lane_idx();
  if (dev::warp_idx() == 0) {
    dev::bar_sync(1, 64);
    EXPECT(words[lane] == scramble(lane));
  } else {
    dev::bar_arrive(1, 64);
    words[lane] = scramble(lane);
  }
}

LITMUS(barrier_not_reached) {
  if (dev::warp_idx() == 0) dev::bar_sync(1, 64);
}

LITMUS(shared_memory) {
  EP_SHARED(uint32_t, a, [32]);
  EP_SHARED(uint64_t, b, [32]);
  EP_DYNAMIC_SHARED(dynamic);
  const uint32_t me = dev::thread_idx();
  EXPECT(reinterpret_cast<uintptr_t>(dynamic) % 1024 == 0);
  uint32_t* c = reinterpret_cast<uint32_t*>(dynamic);
  if (me < 32) {
    a[me] = scramble(me + dev::block_idx());
    b[me] = ~uint64_t{scramble(me)};
  }
  c[me] = me + 1000 * dev::block_idx();
  dev::sync_block();
  const uint32_t other = dev::num_threads() - 1 - me;
  EXPECT(a[other % 32] == scramble(other % 32 + dev::block_idx()));
  EXPECT(b[other % 32] == ~uint64_t{scramble(other % 32)});
  EXPECT(c[other] == other + 1000 * dev::block_idx());
}

// Of two sizes from static and dynamic arrays, by the block's warps for each other.
LITMUS(shared_accesses) {
  struct alignas(16) Four {
    uint32_t word[4];
  };
  EP_SHARED(Four, a, [64]);
  EP_DYNAMIC_SHARED(dynamic);
  Four* b = reinterpret_cast<Four*>(dynamic);
  const uint32_t me = dev::thread_idx();
  for (uint32_t i = 0; i < 4; ++i) dev::st_shared(a[me].word + i, scramble(4 * me + i));
  for (uint32_t i = 0; i < 4; i += 2) {
    dev::st_shared(reinterpret_cast<uint64_t*>(b[me].word + i), uint64_t{scramble(me)} << 32 | i);
  }
  dev::sync_block();
  const uint32_t other = dev::num_threads() - 1 - me;
  const Four first = dev::ld_shared(a + other), second = dev::ld_shared(b + other);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT(first.word[i] == scramble(4 * other + i));
    EXPECT(second.word[i] == (i % 2 ? scramble(other) : i));
  }
}

LITMUS(clock_advances) {
  const uint64_t start = dev::clock_ns();
  uint64_t* seen = test.data<uint64_t>(0);
  if (test.is(0, 0, 0)) {
    dev::st_release<dev::Scope::gpu>(seen, start + 1);  // never zero
  }
  if (test.is(0, 1, 0)) {
    AWAIT(dev::ld_acquire<dev::Scope::gpu>(seen) != 0);
    EXPECT(dev::clock_ns() + 1 >= dev::ld_relaxed<dev::Scope::gpu>(seen));
  }
  uint64_t now = start;
  for (uint32_t i = 0; i < 100; ++i) {
    dev::pause();
    const uint64_t next = dev::clock_ns();
    EXPECT(next >= now);
    now = next;
  }
  while (dev::clock_ns() - start < 20000) dev::pause();  // time passes
  EXPECT(dev::clock_ns() > start);
}

}  // namespace nccl_ep::litmus

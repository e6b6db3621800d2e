// SPDX-License-Identifier: Apache-2.0
// Kernels for sim_executor.cpp.
#include "sim_executor_kernels.hpp"

#include "device/device.hpp"

namespace {

using namespace nccl_ep;
using dev::Order;
using dev::Scope;
using test::Args;

uint32_t* word(const Args& args, uint32_t rank, uint32_t index) { return args.memory.at<uint32_t>(rank, 4 * index); }

// Word i of the rank's own memory says how many times thread i has found what it expected.
void write_global_idx(const Args& args) {
  const uint32_t i = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  dev::st(word(args, args.rank, i), i + 1000 * dev::num_blocks());
}

void use_collectives(const Args& args) {
  const uint32_t lane = dev::lane_idx();
  uint32_t right = 0;
  right += dev::ballot(lane % 3 == 0) == 0x49249249;
  right += dev::all(lane < 32) && !dev::all(lane < 31);
  right += dev::any(lane == 17) && !dev::any(lane == 32);
  right += dev::shfl(lane * lane, 5u) == 25;
  right += dev::shfl(uint64_t{lane} << 40, lane + 1) == uint64_t{(lane + 1) % 32} << 40;
  right += dev::shfl_xor(lane, 6u) == (lane ^ 6);
  right += dev::shfl(static_cast<float>(lane), 3u) == 3.0f;
  right += dev::sum_warp(lane) == 496;
  right += dev::max_warp(lane ^ 5) == 31;
  right += dev::or_warp(1u << lane) == ~0u;
  dev::sync_warp();
  dev::st(word(args, args.rank, dev::block_idx() * dev::num_threads() + dev::thread_idx()), right);
}

// Lanes leave one after the other; the others go on meeting.
void leave_early(const Args& args) {
  for (uint32_t round = 0; round < 32; ++round) {
    if (dev::lane_idx() == round) return;
    const uint32_t sum = dev::sum_warp(1);
    dev::sync_block();
    dev::st(word(args, args.rank, dev::thread_idx()), sum);
  }
}

void reverse_in_shared(const Args& args) {
  EP_SHARED(uint32_t, forward, [1024]);
  EP_DYNAMIC_SHARED(dynamic);
  uint32_t* backward = reinterpret_cast<uint32_t*>(dynamic);
  const uint32_t n = dev::num_threads(), i = dev::thread_idx();
  forward[i] = i;
  dev::sync_block();
  backward[i] = forward[n - 1 - i];
  dev::sync_block();
  dev::st(word(args, args.rank, dev::block_idx() * n + i), backward[(i + 1) % n]);
}

// The first warp produces, the second consumes; each waits for the other through a barrier of its own.
void hand_over(const Args& args) {
  EP_SHARED(uint32_t, box, [32]);
  const uint32_t lane = dev::lane_idx();
  uint32_t sum = 0;
  for (uint32_t round = 0; round < 10; ++round) {
    if (dev::warp_idx() == 0) {
      if (round > 0) dev::bar_sync(2, 64);
      box[lane] = round * lane;
      dev::bar_arrive(1, 64);
    } else {
      dev::bar_sync(1, 64);
      sum += box[31 - lane];
      if (round < 9) dev::bar_arrive(2, 64);
    }
  }
  dev::st(word(args, args.rank, dev::thread_idx()), sum);
}

void barrier_disagreement(const Args&) { dev::bar_sync(3, dev::lane_idx() == 0 ? 64 : 32); }

void wait_forever(const Args& args) {
  if (dev::thread_idx() != 7) return;
  while (dev::ld_acquire<Scope::gpu>(word(args, args.rank, 16)) != 1) dev::pause();
}

void forget_barrier(const Args&) {
  if (dev::warp_idx() == 0) dev::sync_block();
  if (dev::warp_idx() == 1 && dev::lane_idx() < 4) dev::sync_warp();
  if (dev::warp_idx() == 1) {
    while (dev::lane_idx() >= 4) dev::pause();
  }
}

// All blocks of the grid meet, which takes that all are resident.
void meet_as_grid(const Args& args) {
  if (dev::thread_idx() == 0) {
    uint32_t* count = word(args, args.rank, 0);
    dev::atomic_add<Order::acq_rel, Scope::gpu>(count, 1u);
    while (dev::ld_acquire<Scope::gpu>(count) != dev::num_blocks()) dev::pause();
  }
  dev::sync_block();
}

// Rank 0 sends words to rank 1 and raises a flag there; rank 1 counts those that are right.
template <bool kRelease>
void send(const Args& args) {
  if (dev::thread_idx() >= 32) return;
  constexpr uint32_t kFlag = 512;
  const uint32_t lane = dev::lane_idx();
  if (args.rank == 0) {
    dev::st(word(args, 1, lane), lane + 1);
    dev::sync_warp();
    if (lane == 0 && kRelease) dev::st_release<Scope::system>(word(args, 1, kFlag), 1u);
    if (lane == 0 && !kRelease) dev::st_release<Scope::gpu>(word(args, 1, kFlag), 1u);
  } else {
    if (lane == 0) {
      while (dev::ld_acquire<Scope::system>(word(args, 1, kFlag)) != 1) dev::pause();
    }
    dev::sync_warp();
    const uint32_t right = dev::ld(word(args, 1, lane)) == lane + 1;
    dev::st(word(args, 1, 1024 + lane), right);
  }
}

void bulk_round_trip(const Args& args) {
  EP_DYNAMIC_SHARED(stage);
  EP_SHARED(dev::Mbarrier, loaded, [1]);
  if (dev::thread_idx() == 0) {
    dev::mbar_init(&loaded[0], 1);
    dev::fence_mbar_init();
  }
  dev::sync_block();
  uint32_t* words = reinterpret_cast<uint32_t*>(stage);
  constexpr uint32_t kBytes = 4096;
  if (dev::thread_idx() == 0) {
    dev::mbar_arrive_expect_tx(&loaded[0], kBytes);
    dev::bulk_load(stage, word(args, args.rank, 0), kBytes, &loaded[0]);
  }
  dev::mbar_wait(&loaded[0], 0);
  for (uint32_t i = dev::thread_idx(); i < kBytes / 4; i += dev::num_threads()) words[i] += i;
  dev::fence_proxy_async();
  dev::sync_block();
  if (dev::thread_idx() == 0) {
    dev::bulk_store(word(args, (args.rank + 1) % args.num_ranks, 1024), stage, kBytes);
    dev::bulk_commit();
    dev::bulk_wait<0>();
  }
}

void leave_bulk_store(const Args& args) {
  EP_DYNAMIC_SHARED(stage);
  if (dev::thread_idx() != 0) return;
  dev::bulk_store(word(args, args.rank, 0), stage, 4096);
  dev::bulk_commit();
}

void use_unmade_mbarrier(const Args&) {
  EP_SHARED(dev::Mbarrier, loaded, [1]);
  if (dev::thread_idx() == 0) dev::mbar_arrive(&loaded[0]);
}

void wait_for_time(const Args& args) {
  const uint64_t start = dev::clock_ns();
  while (dev::clock_ns() - start < 20'000'000'000) dev::pause();
  dev::st(word(args, args.rank, dev::thread_idx()), 1u);
}

void wait_for_two_flags_or_time(const Args& args) {
  const uint64_t start = dev::clock_ns();
  uint32_t result = 1;
  while (dev::ld_acquire<Scope::system>(word(args, args.rank, 600)) == 0) {
    if (dev::ld_relaxed<Scope::gpu>(word(args, args.rank, 700)) != 0) result = 2;
    if (dev::clock_ns() - start > 1'000'000'000) result = 3;
    if (result != 1) break;
    dev::pause();
  }
  dev::st(word(args, args.rank, dev::thread_idx()), result);
}

void write_to_null(const Args&) {
  if (dev::thread_idx() == 3) dev::st(reinterpret_cast<uint32_t*>(0), 1u);
}

void write_misaligned(const Args& args) { dev::st(args.memory.at<uint32_t>(args.rank, 2), 1u); }

[[gnu::noinline]] uint32_t deep(uint32_t depth) {
  volatile uint32_t frame[64];
  frame[depth % 64] = depth;
  if (depth == 0) return 0;
  dev::pause();
  return deep(depth - 1) + frame[depth % 64];
}

void use_much_stack(const Args& args) { dev::st(word(args, args.rank, 0), deep(1000)); }

// One thread looks at plain memory, which the other writes.
template <bool kWrites>
void spin_on_plain_memory(const Args& args) {
  volatile uint32_t* flag = word(args, args.rank, 0);
  if (dev::thread_idx() == 0) {
    while (*flag != 1) {
    }
  }
  if (dev::thread_idx() == 40) {
    for (int i = 0; i < 100; ++i) dev::pause();
    if (kWrites) *flag = 1;
  }
}

}  // namespace

EP_SIM_KERNEL("test_global_idx", write_global_idx, Args)
EP_SIM_KERNEL("test_collectives", use_collectives, Args)
EP_SIM_KERNEL("test_leave_early", leave_early, Args)
EP_SIM_KERNEL("test_reverse", reverse_in_shared, Args)
EP_SIM_KERNEL("test_hand_over", hand_over, Args)
EP_SIM_KERNEL("test_barrier_disagreement", barrier_disagreement, Args)
EP_SIM_KERNEL("test_wait_forever", wait_forever, Args)
EP_SIM_KERNEL("test_forget_barrier", forget_barrier, Args)
EP_SIM_KERNEL("test_meet_as_grid", meet_as_grid, Args)
EP_SIM_KERNEL("test_send", send<true>, Args)
EP_SIM_KERNEL("test_send_narrow", send<false>, Args)
EP_SIM_KERNEL("test_bulk", bulk_round_trip, Args)
EP_SIM_KERNEL("test_leave_bulk_store", leave_bulk_store, Args)
EP_SIM_KERNEL("test_unmade_mbarrier", use_unmade_mbarrier, Args)
EP_SIM_KERNEL("test_wait_for_time", wait_for_time, Args)
EP_SIM_KERNEL("test_two_flags_or_time", wait_for_two_flags_or_time, Args)
EP_SIM_KERNEL("test_null", write_to_null, Args)
EP_SIM_KERNEL("test_misaligned", write_misaligned, Args)
EP_SIM_KERNEL("test_much_stack", use_much_stack, Args)
EP_SIM_KERNEL("test_plain_spin", spin_on_plain_memory<true>, Args)
EP_SIM_KERNEL("test_plain_hang", spin_on_plain_memory<false>, Args)

// SPDX-License-Identifier: Apache-2.0
// Where the threads of a warp or a block meet: collectives, barriers.
#include <algorithm>
#include <array>
#include <bit>

#include "sim/caller.hpp"
#include "sim/meetings.hpp"

namespace nccl_ep::sim {

namespace {

const char* name_of(device::Meeting what) {
  switch (what) {
    case device::Meeting::sync: return "sync_warp";
    case device::Meeting::ballot: return "ballot, all or any";
    case device::Meeting::shuffle: return "shfl";
    case device::Meeting::shuffle_xor: return "shfl_xor";
    case device::Meeting::sum: return "sum_warp";
    case device::Meeting::maximum: return "max_warp";
    case device::Meeting::load_line: return "ld_line";
    case device::Meeting::store_line: return "st_line";
    default: return "or_warp";
  }
}

uint32_t source_lane(const WarpMeeting& meeting, uint32_t lane) {
  const uint32_t argument = meeting.argument[lane];
  return (meeting.what == device::Meeting::shuffle ? argument : lane ^ argument) % kWarpSize;
}

void shuffle(ExecutorState& sim, WarpMeeting& meeting) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if ((meeting.arrived >> lane & 1) == 0) continue;
    const uint32_t source = source_lane(meeting, lane);
    if ((meeting.arrived >> source & 1) == 0) {
      sim.fail_thread(sim.current->wait.pc, [&] {
        return "lane " + std::to_string(lane) + " asks lane " + std::to_string(source) + " for a value in " +
               name_of(meeting.what) + ", but that lane has exited";
      });
    }
    meeting.result[lane] = meeting.value[source];
  }
}

void combine(WarpMeeting& meeting) {
  uint32_t sum = 0, maximum = 0, bits = 0, ballot = 0;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if ((meeting.arrived >> lane & 1) == 0) continue;
    const auto value = static_cast<uint32_t>(meeting.value[lane]);
    sum += value;
    maximum = std::max(maximum, value);
    bits |= value;
    ballot |= uint32_t{value != 0} << lane;
  }
  uint32_t result = ballot;
  if (meeting.what == device::Meeting::sum) result = sum;
  if (meeting.what == device::Meeting::maximum) result = maximum;
  if (meeting.what == device::Meeting::bitwise_or) result = bits;
  std::fill(std::begin(meeting.result), std::end(meeting.result), result);
}

// sync_warp alone orders memory.
void synchronise(ExecutorState& sim, Warp& warp) {
  std::array<check::Thread*, kWarpSize> threads;
  size_t num_threads = 0;
  for (GpuThread& thread : warp.threads) {
    if ((warp.meeting.arrived & thread.lane_bit()) == 0) continue;
    sim.stores.widen(thread.stores, warp.stores);
    threads[num_threads++] = thread.checked;
  }
  if (sim.checker != nullptr) {
    const std::span<check::Thread* const> all(threads.data(), num_threads);
    sim.checker->meet(all);
  }
}

// All live lanes have come: gives them their results and lets them go on. False: they rest first.
bool complete(ExecutorState& sim, Warp& warp) {
  WarpMeeting& meeting = warp.meeting;
  switch (meeting.what) {
    case device::Meeting::sync: synchronise(sim, warp); break;
    case device::Meeting::shuffle:
    case device::Meeting::shuffle_xor: shuffle(sim, meeting); break;
    case device::Meeting::load_line:
    case device::Meeting::store_line: access_lines(sim, warp); break;
    default: combine(meeting);
  }
  const uint32_t lanes = std::exchange(meeting.arrived, 0);
  ++warp.polling.num_meetings;
  if (warp.polling.came_round && sim.parked.park(warp, lanes)) return false;
  sim.wake({&warp, lanes});
  return true;
}

// ---- barriers of a block

void widen_stores(ExecutorState& sim, GpuThread& thread) {
  sim.stores.widen(thread.warp->stores, thread.warp->block->stores);
  sim.stores.widen(thread.stores, thread.warp->block->stores);
}

void release(ExecutorState& sim, BlockBarrier& barrier) {
  const auto by_index = [](const GpuThread* a, const GpuThread* b) { return a->identity.thread < b->identity.thread; };
  std::sort(barrier.waiting.begin(), barrier.waiting.end(), by_index);
  for (GpuThread* thread : barrier.waiting) widen_stores(sim, *thread);
  if (sim.checker != nullptr) {
    std::vector<check::Thread*> threads;
    for (const GpuThread* thread : barrier.waiting) threads.push_back(thread->checked);
    sim.checker->meet(threads, barrier.brought);
  }
  for (GpuThread* thread : barrier.waiting) sim.make_runnable(*thread);
  barrier = {};
}

// All live threads of the block have come to barrier number 0.
void release_all(ExecutorState& sim, Block& block) {
  block.all = block.barriers[0].all;
  release(sim, block.barriers[0]);
}

void check_named_barrier(ExecutorState& sim, uint32_t id, uint32_t num_threads, check::Pc pc) {
  const Block& block = *sim.current->warp->block;
  if (id < 1 || id > 15) {
    sim.fail_thread(pc, [&] { return "named barrier " + std::to_string(id) + ", expected a number from 1 to 15"; });
  }
  if (num_threads == 0 || num_threads % kWarpSize != 0 || num_threads > block.grid->num_threads) {
    sim.fail_thread(pc, [&] {
      return "named barrier " + std::to_string(id) + " is to wait for " + std::to_string(num_threads) +
             " threads, expected a multiple of 32 up to the block's " + std::to_string(block.grid->num_threads);
    });
  }
  const uint32_t expected = block.barriers[id].num_expected;
  if (expected != 0 && expected != num_threads) {
    sim.fail_thread(pc, [&] {
      return "named barrier " + std::to_string(id) + " is to wait for " + std::to_string(num_threads) +
             " threads, but those who came before said " + std::to_string(expected);
    });
  }
}

}  // namespace

void ExecutorState::on_lane_exit(Warp& warp) {
  if (warp.meeting.arrived == warp.live) complete(*this, warp);
}

void ExecutorState::on_thread_exit(Block& block) {
  BlockBarrier& barrier = block.barriers[0];
  if (barrier.num_arrived != 0 && barrier.num_arrived == block.num_live) release_all(*this, block);
}

WarpMeeting& meet(ExecutorState& sim, device::Meeting what, uint64_t value, uint32_t argument, check::Pc pc) {
  GpuThread& thread = *sim.current;
  Warp& warp = *thread.warp;
  WarpMeeting& meeting = warp.meeting;
  if (meeting.arrived != 0 && meeting.what != what) {
    const uint32_t other = static_cast<uint32_t>(std::countr_zero(meeting.arrived));
    sim.fail_thread(pc, [&] {
      return std::string("the lanes of a warp meet in different collectives: ") + name_of(what) + " here, " +
             name_of(meeting.what) + " in lane " + std::to_string(other) + place_of(warp.threads[other].wait.pc);
    });
  }
  meeting.what = what;
  meeting.value[thread.lane()] = value;
  meeting.argument[thread.lane()] = argument;
  meeting.arrived |= thread.lane_bit();
  thread.wait = {name_of(what), 0, pc};
  if (meeting.arrived == warp.live && complete(sim, warp)) {
    sim.step();
  } else {
    sim.wait(thread.wait);
  }
  return meeting;
}

namespace device {

uint64_t meet_warp(Meeting what, uint64_t value, uint32_t argument) {
  ExecutorState& sim = *running_state;
  return meet(sim, what, value, argument, EP_CALLER).result[sim.current->lane()];
}

bool meet_block(bool pred) {
  ExecutorState& sim = *running_state;
  Block& block = *sim.current->warp->block;
  BlockBarrier& barrier = block.barriers[0];
  barrier.waiting.push_back(sim.current);
  barrier.all &= pred;
  if (++barrier.num_arrived == block.num_live) {
    release_all(sim, block);
    sim.step();
  } else {
    sim.wait({"sync_block", 0, EP_CALLER});
  }
  return block.all;
}

void bar_sync(uint32_t id, uint32_t num_threads) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  check_named_barrier(sim, id, num_threads, pc);
  BlockBarrier& barrier = sim.current->warp->block->barriers[id];
  barrier.num_expected = num_threads;
  barrier.waiting.push_back(sim.current);
  if (++barrier.num_arrived == num_threads) {
    release(sim, barrier);
    sim.step();
  } else {
    sim.wait({"named barrier", id, pc});
  }
}

void bar_arrive(uint32_t id, uint32_t num_threads) {
  ExecutorState& sim = *running_state;
  check_named_barrier(sim, id, num_threads, EP_CALLER);
  BlockBarrier& barrier = sim.current->warp->block->barriers[id];
  barrier.num_expected = num_threads;
  widen_stores(sim, *sim.current);
  if (sim.checker != nullptr) barrier.brought.learn(sim.checker->publish(*sim.current->checked));
  if (++barrier.num_arrived == num_threads) release(sim, barrier);
  sim.step();
}

}  // namespace device
}  // namespace nccl_ep::sim

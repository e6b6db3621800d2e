// SPDX-License-Identifier: Apache-2.0
// Telling receivers that rows have arrived: a flag for each. The fence before it waits for all that the SM has under way, so
// warps that push leave it to one warp of their block, which does nothing else.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// The flags that a pushing warp wants raised, in shared memory: a ring that the warp fills and the raising one empties.
struct FlagQueue {
  static constexpr uint32_t kSize = 16;

  dev::Mbarrier filled[kSize], freed[kSize];
  uint32_t* flag[kSize];  // null: there are no more

  EP_DEVICE static uint32_t slot(uint32_t row) { return row % kSize; }
  EP_DEVICE static uint32_t parity(uint32_t row) { return row / kSize % 2; }
};

// Makes all queues of the block empty. All its threads call it before begin(), in which they meet. The first warp has other things
// to do there.
EP_DEVICE void open_queues(FlagQueue* queues) {
  if (dev::warp_idx() == 0) return;
  for (uint32_t i = dev::thread_idx() - 32; i < dev::num_warps() * FlagQueue::kSize; i += dev::num_threads() - 32) {
    FlagQueue& queue = queues[i / FlagQueue::kSize];
    dev::mbar_init(queue.filled + i % FlagQueue::kSize, 1);
    dev::mbar_init(queue.freed + i % FlagQueue::kSize, 1);
  }
  dev::fence_mbar_init();
}

// The pushing warp's end of its queue; one lane has it.
struct FlagSender {
  FlagQueue& queue;
  uint32_t num_added = 0, num_finished = 0;

  // The flag of the next row. No more than kSize rows may be unfinished.
  EP_DEVICE void add(uint32_t* flag) {
    const uint32_t row = num_added++;
    if (row >= FlagQueue::kSize) {
      dev::mbar_wait(queue.freed + FlagQueue::slot(row), FlagQueue::parity(row - FlagQueue::kSize));
    }
    queue.flag[FlagQueue::slot(row)] = flag;
  }
  // The first so many rows have arrived, as this lane sees it.
  EP_DEVICE void finish(uint32_t num_rows) {
    for (; num_finished < num_rows; ++num_finished) dev::mbar_arrive(queue.filled + FlagQueue::slot(num_finished));
  }
  EP_DEVICE void close() {
    add(nullptr);
    finish(num_added);
  }
};

// Raises the flags of some queues until all are closed: a lane for each. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE void raise_flags(const Operation<kPeers>& op, FlagQueue* queues, uint32_t num_queues) {
  FlagQueue& queue = queues[dev::lane_idx() < num_queues ? dev::lane_idx() : 0];
  bool is_open = dev::lane_idx() < num_queues;
  uint32_t num_raised = 0;
  const auto is_filled = [&](uint32_t row) {
    return dev::mbar_test(queue.filled + FlagQueue::slot(row), FlagQueue::parity(row));
  };
  while (dev::any(is_open)) {
    uint32_t end = num_raised;
    while (is_open && end - num_raised < FlagQueue::kSize && is_filled(end)) ++end;
    if (!dev::any(end != num_raised)) {
      dev::pause();
      continue;
    }
    dev::fence<dev::Scope::system>();
    for (; num_raised != end; ++num_raised) {
      uint32_t* flag = queue.flag[FlagQueue::slot(num_raised)];
      if (flag) dev::st_relaxed<dev::Scope::system>(flag, op.epoch);
      is_open = flag != nullptr;
      dev::mbar_arrive(queue.freed + FlagQueue::slot(num_raised));
    }
  }
}

EP_DEVICE uint32_t* flag_of(const HtGroupState& group, uint32_t rank, uint64_t slot) {
  return group.window.at<uint32_t>(rank, group.layout.flag_at(slot));
}

// Whether a row's flag is raised.
template <Peers kPeers>
EP_DEVICE bool has_come(const Operation<kPeers>& op, uint64_t slot) {
  return dev::ld_acquire<dev::Scope::system>(flag_of(op.group, op.group.rank, slot)) == op.epoch;
}

// Waits for the flags of rows that are on their way to this rank: each lane for one, if `awaits`. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE bool await_rows(const Operation<kPeers>& op, const Awaited& mine, bool awaits, uint64_t slot) {
  Awaited awaited = mine;
  return op.template wait_for<true>(awaited, [&] {
    const uint32_t missing = dev::ballot(awaits && !has_come(op, slot));
    if (missing == 0) return true;
    const uint32_t lane = dev::find_first(missing);  // a fault speaks of what is missing
    awaited.peer = dev::shfl(mine.peer, lane);
    awaited.token = dev::shfl(mine.token, lane);
    return false;
  });
}

// The same in a group with masks, where rows of lost ranks do not come: leaves in `lost` which lanes wait for one of those.
// False: the group has failed. Lanes have patience side by side: who waits for this rank has it but twice. In other groups
// nothing is lost.
template <Peers kPeers>
EP_DEVICE bool await_rows(const Operation<kPeers>& op, const Awaited& mine, bool awaits, uint64_t slot,
                          uint32_t& lost) {
  lost = 0;
  if constexpr (!has_masks(kPeers)) return await_rows(op, mine, awaits, slot);
  Patience patience;
#pragma unroll 1
  for (uint32_t polls = 0;; ++polls) {
    const bool is_missing = awaits && !has_come(op, slot);
    const bool is_gone = is_missing && mine.peer != op.group.rank && is_masked(op.group, mine.peer);
    lost = dev::ballot(is_gone);
    if (dev::ballot(is_missing) == lost) return true;
    if (polls < dev::kPollsBeforeClock) continue;
    if (polls == dev::kPollsBeforeClock) patience.begin(op.life(), mine.peer);
    if (dev::any(has_failed(op.group))) return false;
    if (is_missing && !is_gone && patience.ends(op.life(), mine.peer)) lose(op.group, op.epoch, mine);
    dev::pause();
  }
}

}  // namespace nccl_ep::ht

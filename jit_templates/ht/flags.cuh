// SPDX-License-Identifier: Apache-2.0
// Telling receivers that rows have arrived: a flag for each. The fence before it waits for all that the SM has under way, so
// warps that push leave it to one warp of their block, which does nothing else.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// The flags that a pushing warp wants raised, in shared memory, zero at first. One lane of the warp calls it.
struct FlagQueue {
  static constexpr uint32_t kSize = 32;

  uint32_t* flag[kSize];
  uint32_t num_finished;  // rows that have arrived
  uint32_t num_raised;    // rows whose flags are raised
  uint32_t is_closed;     // no more rows

  // The flag of the warp's row with number `row`.
  EP_DEVICE void add(uint32_t* row_flag, uint32_t row) {
    while (row - dev::ld_acquire<dev::Scope::block>(&num_raised) >= kSize) dev::pause();
    flag[row % kSize] = row_flag;
  }
  // The first so many rows have arrived, as this lane sees it.
  EP_DEVICE void finish(uint32_t num_rows) { dev::st_release<dev::Scope::block>(&num_finished, num_rows); }
  EP_DEVICE void close() { dev::st_release<dev::Scope::block>(&is_closed, 1u); }
};

// Makes all queues of the block empty. All its threads call it and meet before one of them uses its queue.
EP_DEVICE void open_queues(FlagQueue* queues) {
  for (uint32_t i = dev::thread_idx(); i < dev::num_warps(); i += dev::num_threads()) {
    queues[i].num_finished = queues[i].num_raised = queues[i].is_closed = 0;
  }
}

// Raises the flags of some queues until all are closed: a lane for each. The whole warp calls it.
EP_DEVICE void raise_flags(const Operation& op, FlagQueue* queues, uint32_t num_queues) {
  FlagQueue& queue = queues[dev::lane_idx() < num_queues ? dev::lane_idx() : 0];
  bool is_open = dev::lane_idx() < num_queues;
  for (uint32_t num_raised = 0; dev::any(is_open);) {
    const bool closes = is_open && dev::ld_acquire<dev::Scope::block>(&queue.is_closed);  // then what follows is all
    const uint32_t num_finished = is_open ? dev::ld_acquire<dev::Scope::block>(&queue.num_finished) : num_raised;
    if (dev::any(num_raised != num_finished)) {
      dev::fence<dev::Scope::system>();
      for (; num_raised != num_finished; ++num_raised) {
        dev::st_relaxed<dev::Scope::system>(queue.flag[num_raised % FlagQueue::kSize], op.epoch);
      }
      if (is_open) dev::st_release<dev::Scope::block>(&queue.num_raised, num_raised);
    } else {
      dev::pause();
    }
    is_open = is_open && !closes;
  }
}

EP_DEVICE uint32_t* flag_of(const HtGroupState& group, uint32_t rank, uint64_t slot) {
  return group.window.at<uint32_t>(rank, group.layout.flag_at(slot));
}

// Whether a row's flag is raised.
EP_DEVICE bool has_come(const Operation& op, uint64_t slot) {
  return dev::ld_acquire<dev::Scope::system>(flag_of(op.group, op.group.rank, slot)) == op.epoch;
}

// Waits for the flags of rows that are on their way to this rank: each lane for one, if `awaits`. The whole warp calls it.
EP_DEVICE bool await_rows(const Operation& op, const Awaited& mine, bool awaits, uint64_t slot) {
  Awaited awaited = mine;
  return wait_for<true>(op.group, op.epoch, awaited, [&] {
    const uint32_t missing = dev::ballot(awaits && !has_come(op, slot));
    if (missing == 0) return true;
    const uint32_t lane = dev::find_first(missing);  // a fault speaks of what is missing
    awaited.peer = dev::shfl(mine.peer, lane);
    awaited.token = dev::shfl(mine.token, lane);
    return false;
  });
}

}  // namespace nccl_ep::ht

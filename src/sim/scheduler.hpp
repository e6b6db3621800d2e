// SPDX-License-Identifier: Apache-2.0
// Decides which thread goes on. All choices come from the seed.
#pragma once

#include <cstdint>
#include <vector>

#include "nccl_ep_sim.h"
#include "sim/grid.hpp"
#include "sim/random.hpp"

namespace nccl_ep::sim {

class Scheduler {
 public:
  Scheduler(ncclEpSimSchedule_t schedule, uint32_t num_ranks, Random random);

  // All lanes of a new warp are runnable.
  void add(Warp& warp);
  void remove(Warp& warp);
  void set_runnable(GpuThread& thread);
  void set_waiting(GpuThread& thread);
  void set_silent(uint32_t rank, bool silent);
  bool is_silent(uint32_t rank) const { return silent_[rank]; }
  // The rank's warps from these numbers on stand still, in all blocks from that one on; kNone: none do.
  static constexpr uint32_t kNone = ~0u;
  void stop_warps(uint32_t rank, uint32_t first_block, uint32_t first_warp);

  // Who goes on after `current` has made a step or begun to wait; `current` may be null. Null if nobody can.
  GpuThread* next(GpuThread* current);

 private:
  // Who is starved at the moment, and of what kind: a rank, a block, a warp or a lane as a whole.
  struct Starvation {
    uint64_t salt = 0;
    uint32_t level = 0;
    uint32_t one_in = 2;
    uint64_t steps_left = 0;
  };

  // The first warps of a rank's kernels that stand still.
  struct Stopped {
    uint32_t first_block = kNone, first_warp = kNone;
  };

  bool stands_still(const Warp& warp) const;
  uint32_t eligible_lanes(const Warp& warp) const;
  void update(Warp& warp);
  void take_out(Warp& warp);
  void requeue_all();
  GpuThread* any_lane(const Warp& warp);
  GpuThread* next_of_warp(GpuThread* current);
  GpuThread* next_of_burst(GpuThread* current);
  Warp* any_warp();
  void redraw_starvation();
  uint32_t starved_lanes(const Warp& warp) const;

  ncclEpSimSchedule_t schedule_;
  Random random_;
  std::vector<bool> silent_;
  std::vector<Stopped> stopped_;
  std::vector<Warp*> live_;
  std::vector<Warp*> favoured_;  // runnable warps with lanes that are not starved
  std::vector<Warp*> starved_;   // other runnable warps
  uint64_t burst_bound_;
  uint64_t burst_left_ = 0;
  uint64_t starvation_bound_;
  Starvation starvation_;
};

}  // namespace nccl_ep::sim

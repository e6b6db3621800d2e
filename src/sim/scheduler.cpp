// SPDX-License-Identifier: Apache-2.0
#include "sim/scheduler.hpp"

#include <bit>

namespace nccl_ep::sim {

namespace {

// The lowest `n` set bits gone.
uint32_t without_lowest(uint32_t bits, uint64_t n) {
  for (; n > 0; --n) bits &= bits - 1;
  return bits;
}

}  // namespace

Scheduler::Scheduler(ncclEpSimSchedule_t schedule, uint32_t num_ranks, Random random)
    : schedule_(schedule), random_(random), silent_(num_ranks), stopped_(num_ranks) {
  burst_bound_ = uint64_t{2} << random_.below(10);
  starvation_bound_ = uint64_t{64} << random_.below(11);
}

void Scheduler::add(Warp& warp) {
  warp.live_position = static_cast<uint32_t>(live_.size());
  live_.push_back(&warp);
  warp.starved = starved_lanes(warp);
  update(warp);
}

void Scheduler::remove(Warp& warp) {
  take_out(warp);
  live_[warp.live_position] = live_.back();
  live_[warp.live_position]->live_position = warp.live_position;
  live_.pop_back();
}

void Scheduler::set_runnable(GpuThread& thread) {
  thread.warp->runnable |= thread.lane_bit();
  update(*thread.warp);
}

void Scheduler::set_waiting(GpuThread& thread) {
  thread.warp->runnable &= ~thread.lane_bit();
  update(*thread.warp);
}

void Scheduler::set_silent(uint32_t rank, bool silent) {
  silent_[rank] = silent;
  requeue_all();
}

void Scheduler::stop_warps(uint32_t rank, uint32_t first_block, uint32_t first_warp) {
  stopped_[rank] = {first_block, first_warp};
  requeue_all();
}

bool Scheduler::stands_still(const Warp& warp) const {
  const Block& block = *warp.block;
  const Stopped& stopped = stopped_[block.grid->rank];
  return silent_[block.grid->rank] || (block.index >= stopped.first_block && warp.index >= stopped.first_warp);
}

uint32_t Scheduler::eligible_lanes(const Warp& warp) const {
  return warp.queue == Warp::Queue::favoured ? warp.runnable & ~warp.starved : warp.runnable;
}

void Scheduler::update(Warp& warp) {
  Warp::Queue queue = Warp::Queue::none;
  if (warp.runnable != 0 && !stands_still(warp)) {
    queue = (warp.runnable & ~warp.starved) != 0 ? Warp::Queue::favoured : Warp::Queue::starved;
  }
  if (queue == warp.queue) return;
  take_out(warp);
  if (queue == Warp::Queue::none) return;
  std::vector<Warp*>& warps = queue == Warp::Queue::favoured ? favoured_ : starved_;
  warp.queue = queue;
  warp.queue_position = static_cast<uint32_t>(warps.size());
  warps.push_back(&warp);
}

void Scheduler::take_out(Warp& warp) {
  if (warp.queue == Warp::Queue::none) return;
  std::vector<Warp*>& warps = warp.queue == Warp::Queue::favoured ? favoured_ : starved_;
  warps[warp.queue_position] = warps.back();
  warps[warp.queue_position]->queue_position = warp.queue_position;
  warps.pop_back();
  warp.queue = Warp::Queue::none;
}

void Scheduler::requeue_all() {
  for (Warp* warp : live_) {
    warp->starved = starved_lanes(*warp);
    update(*warp);
  }
}

GpuThread* Scheduler::next(GpuThread* current) {
  if (schedule_ == NCCL_EP_SIM_SCHEDULE_STARVE && starvation_.steps_left-- == 0) redraw_starvation();
  if (favoured_.empty() && starved_.empty()) return nullptr;
  switch (schedule_) {
    case NCCL_EP_SIM_SCHEDULE_WARPS: return next_of_warp(current);
    case NCCL_EP_SIM_SCHEDULE_UNIFORM: return any_lane(*any_warp());
    default: return next_of_burst(current);
  }
}

// The same thread while it can, then the lane after it.
GpuThread* Scheduler::next_of_warp(GpuThread* current) {
  if (current == nullptr || current->warp->queue != Warp::Queue::favoured) return any_lane(*any_warp());
  const uint32_t lanes = current->warp->runnable;
  const uint32_t from_here = lanes & ~(current->lane_bit() - 1);
  return &current->warp->threads[std::countr_zero(from_here != 0 ? from_here : lanes)];
}

// Lanes of one warp, for a while.
GpuThread* Scheduler::next_of_burst(GpuThread* current) {
  const bool starved_turn = favoured_.empty();
  const bool may_stay = current != nullptr && burst_left_ > 0 &&
                        current->warp->queue == (starved_turn ? Warp::Queue::starved : Warp::Queue::favoured);
  if (!may_stay) {
    burst_left_ = random_.below(burst_bound_);
    return any_lane(*any_warp());
  }
  --burst_left_;
  const bool same_lane = (eligible_lanes(*current->warp) & current->lane_bit()) != 0 && !random_.one_in(4);
  return same_lane ? current : any_lane(*current->warp);
}

Warp* Scheduler::any_warp() {
  const std::vector<Warp*>& warps = favoured_.empty() ? starved_ : favoured_;
  return warps[random_.below(warps.size())];
}

GpuThread* Scheduler::any_lane(const Warp& warp) {
  const uint32_t lanes = eligible_lanes(warp);
  const uint64_t skipped = random_.below(static_cast<uint64_t>(std::popcount(lanes)));
  return const_cast<GpuThread*>(&warp.threads[std::countr_zero(without_lowest(lanes, skipped))]);
}

void Scheduler::redraw_starvation() {
  starvation_.salt = random_.next();
  starvation_.level = static_cast<uint32_t>(random_.below(4));
  starvation_.one_in = 2u << random_.below(3);
  starvation_.steps_left = random_.below(starvation_bound_);
  requeue_all();
}

uint32_t Scheduler::starved_lanes(const Warp& warp) const {
  if (schedule_ != NCCL_EP_SIM_SCHEDULE_STARVE) return 0;
  const auto is_starved = [&](uint64_t who) {
    return Random(starvation_.salt ^ (who * 0x9e3779b97f4a7c15)).one_in(starvation_.one_in);
  };
  constexpr uint32_t kAll = ~0u;
  const uint64_t rank = warp.block->grid->rank, block = rank << 20 | warp.block->index, w = block << 5 | warp.index;
  switch (starvation_.level) {
    case 0: return is_starved(rank) ? kAll : 0;
    case 1: return is_starved(block) ? kAll : 0;
    case 2: return is_starved(w) ? kAll : 0;
    default:
      uint32_t lanes = 0;
      for (uint64_t lane = 0; lane < kWarpSize; ++lane) lanes |= uint32_t{is_starved(w << 5 | lane)} << lane;
      return lanes;
  }
}

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
#include "sim/agents.hpp"

#include <algorithm>
#include <stdexcept>

namespace nccl_ep::sim::check {

std::string too_many() {
  return "the happens-before checker follows at most " + std::to_string(Clock::kMaxSlots) +
         " threads and engine operations, over all ranks and shapes of launches; expected fewer SMs, "
         "smaller blocks, fewer ranks, or no checker (ncclEpSimConfig_t.checker OFF, in Python checker=False)";
}

SlotRange Slots::take(Place place, uint32_t count, const Clock& known) {
  constexpr size_t kTries = 8;
  std::deque<SlotRange>& free = pools_[{place.rank, place.block, count}].free;
  for (size_t i = 0; i < std::min(free.size(), kTries); ++i) {
    if (known.at(free[i].first) < free[i].last_epoch) continue;
    const SlotRange range = free[i];
    free.erase(free.begin() + static_cast<ptrdiff_t>(i));
    return range;
  }
  const Slot alignment = count < Clock::kLeafSlots ? 1 : Clock::kLeafSlots;
  const Slot first = (num_slots_ + alignment - 1) / alignment * alignment;
  if (first + uint64_t{count} > Clock::kMaxSlots) throw std::length_error(too_many());
  num_slots_ = first + count;
  return {first, count, 0};
}

void Slots::give_back(Place place, const SlotRange& range) {
  pools_[{place.rank, place.block, range.count}].free.push_back(range);
}

void Names::add(const Grid& grid) {
  if (grids_.size() == kMaxGrids) grids_.pop_front();
  grids_.push_back({grid.name, grid.slots, grid.slots.last_epoch + 1, grid.slots_per_block});
}

void Names::add(const Operation& operation, const char* what, const Issuer& issuer) {
  if (operations_.size() == kMaxOperations) operations_.pop_front();
  operations_.push_back({operation.slot, operation.first_epoch, what, issuer});
}

std::string Names::of(Slot slot, Epoch epoch) const {
  const auto grid = std::find_if(grids_.rbegin(), grids_.rend(), [&](const GridEntry& entry) {
    return slot - entry.slots.first < entry.slots.count && entry.first_epoch <= epoch;
  });
  if (grid != grids_.rend()) {
    const uint32_t block = (slot - grid->slots.first) / grid->slots_per_block;
    const uint32_t thread = (slot - grid->slots.first) % grid->slots_per_block;
    return grid->name.kernel + " rank " + std::to_string(grid->name.rank) + " block " + std::to_string(block) +
           " warp " + std::to_string(thread / 32) + " lane " + std::to_string(thread % 32);
  }
  const auto operation = std::find_if(operations_.rbegin(), operations_.rend(), [&](const OperationEntry& entry) {
    return slot == entry.slot && entry.first_epoch <= epoch;
  });
  if (operation == operations_.rend()) return "an earlier kernel or operation";
  const Issuer& issuer = operation->issuer;
  if (issuer.epoch == 0) return std::string(operation->what) + " on a stream of rank " + std::to_string(issuer.rank);
  return std::string(operation->what) + " issued by " + of(issuer.slot, issuer.epoch);
}

}  // namespace nccl_ep::sim::check

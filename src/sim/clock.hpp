// SPDX-License-Identifier: Apache-2.0
// A vector clock over millions of agents: for each slot, the last epoch of it that is known.
//
// A clock is an immutable tree whose equal parts are shared, so that copying one costs nothing and joining
// two costs as much as they differ. The 32 slots of a leaf are the lanes of one warp. Reference counts are
// plain integers: clocks belong to one cluster and are used under its lock.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

namespace nccl_ep::sim::check {

using Slot = uint32_t;
using Epoch = uint32_t;  // 0: nothing is known

struct ClockLeaf;
template <class Child>
struct ClockNode;

class Clock {
 public:
  static constexpr uint32_t kLeafSlots = 32;
  static constexpr uint32_t kFanOut = 64;
  static constexpr uint32_t kMaxSlots = kLeafSlots * kFanOut * kFanOut * kFanOut;

  Clock() = default;
  Clock(const Clock& other);
  Clock(Clock&& other) noexcept : root_(std::exchange(other.root_, nullptr)) {}
  Clock& operator=(Clock other) noexcept {
    std::swap(root_, other.root_);
    return *this;
  }
  ~Clock();

  Epoch at(Slot slot) const;
  // This clock knowing `slot` up to `epoch` as well.
  Clock with(Slot slot, Epoch epoch) const;
  // The same for a whole leaf: slots leaf_slot ... leaf_slot + 31.
  Clock with_leaf(Slot leaf_slot, const Epoch (&epochs)[kLeafSlots]) const;

  static Clock join(const Clock& a, const Clock& b);

  // Identity, not equality: two clocks of the same tree know the same.
  friend bool operator==(const Clock& a, const Clock& b) { return a.root_ == b.root_; }
  uintptr_t identity() const { return reinterpret_cast<uintptr_t>(root_); }

 private:
  using Root = ClockNode<ClockNode<ClockNode<ClockLeaf>>>;

  explicit Clock(Root* root) : root_(root) {}

  Root* root_ = nullptr;
};

// Joins, remembering the last ones: the lanes of a warp mostly ask for the same join one after the other, and
// then go on sharing one tree.
class ClockJoiner {
 public:
  Clock join(const Clock& a, const Clock& b);

 private:
  struct Entry {
    Clock a, b, joined;
  };
  std::array<Entry, 256> memory_;
};

}  // namespace nccl_ep::sim::check

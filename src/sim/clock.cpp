// SPDX-License-Identifier: Apache-2.0
#include "sim/clock.hpp"

#include <algorithm>
#include <stdexcept>

namespace nccl_ep::sim::check {

struct ClockLeaf {
  static constexpr uint32_t kSlots = Clock::kLeafSlots;

  uint32_t num_owners = 1;
  Epoch epochs[kSlots];
};

namespace {

template <class AnyNode>
AnyNode* share(AnyNode* node) {
  if (node != nullptr) ++node->num_owners;
  return node;
}

}  // namespace

// A node with children that are shared with other trees, or null where nothing is known.
template <class Child>
struct ClockNode {
  static constexpr uint32_t kSlots = Child::kSlots * Clock::kFanOut;
  static uint32_t index_of(Slot slot) { return slot / Child::kSlots % Clock::kFanOut; }

  uint32_t num_owners = 1;
  uint32_t num_children = 0;  // none behind these
  Child* children[Clock::kFanOut];

  ClockNode() = default;
  ClockNode(const ClockNode& other) : num_children(other.num_children) {
    for (uint32_t i = 0; i < num_children; ++i) children[i] = share(other.children[i]);
  }
  Child* child(uint32_t index) const { return index < num_children ? children[index] : nullptr; }
  Child*& place(uint32_t index) {
    while (num_children <= index) children[num_children++] = nullptr;
    return children[index];
  }
};

namespace {

// Drop an owner; the last one takes the node with it.
void drop(ClockLeaf* leaf) {
  if (leaf != nullptr && --leaf->num_owners == 0) delete leaf;
}

template <class Child>
void drop(ClockNode<Child>* node) {
  if (node == nullptr || --node->num_owners != 0) return;
  for (uint32_t i = 0; i < node->num_children; ++i) drop(node->children[i]);
  delete node;
}

// The joins return a node that the caller owns a share of: `a` or `b` themselves where one knows all of the
// other.
ClockLeaf* join_nodes(ClockLeaf* a, ClockLeaf* b) {
  ClockLeaf joined;
  bool is_a = true, is_b = true;
  for (uint32_t i = 0; i < ClockLeaf::kSlots; ++i) {
    joined.epochs[i] = std::max(a->epochs[i], b->epochs[i]);
    is_a &= joined.epochs[i] == a->epochs[i];
    is_b &= joined.epochs[i] == b->epochs[i];
  }
  if (is_a || is_b) return share(is_a ? a : b);
  return new ClockLeaf(joined);
}

template <class Child>
ClockNode<Child>* join_nodes(ClockNode<Child>* a, ClockNode<Child>* b) {
  ClockNode<Child> joined;
  bool is_a = true, is_b = true;
  joined.num_children = std::max(a->num_children, b->num_children);
  for (uint32_t i = 0; i < joined.num_children; ++i) {
    Child *x = a->child(i), *y = b->child(i);
    const bool one_is_enough = x == y || y == nullptr || x == nullptr;
    joined.children[i] = one_is_enough ? share(x != nullptr ? x : y) : join_nodes(x, y);
    is_a &= joined.children[i] == x;
    is_b &= joined.children[i] == y;
  }
  if (is_a || is_b) {
    for (uint32_t i = 0; i < joined.num_children; ++i) drop(joined.children[i]);
    return share(is_a ? a : b);
  }
  auto* result = new ClockNode<Child>;
  result->num_children = joined.num_children;
  std::copy(joined.children, joined.children + joined.num_children, result->children);
  return result;
}

Epoch epoch_at(const ClockLeaf* leaf, Slot slot) {
  return leaf != nullptr ? leaf->epochs[slot % ClockLeaf::kSlots] : 0;
}

template <class Child>
Epoch epoch_at(const ClockNode<Child>* node, Slot slot) {
  return node != nullptr ? epoch_at(node->child(ClockNode<Child>::index_of(slot)), slot) : 0;
}

using LeafEpochs = Epoch[Clock::kLeafSlots];

// A new node that knows what `old` does, which may be null, and these epochs.
ClockLeaf* add_leaf(const ClockLeaf* old, Slot, const LeafEpochs& epochs) {
  auto* leaf = new ClockLeaf;
  for (uint32_t i = 0; i < ClockLeaf::kSlots; ++i) {
    leaf->epochs[i] = old != nullptr ? std::max(old->epochs[i], epochs[i]) : epochs[i];
  }
  return leaf;
}

template <class Child>
ClockNode<Child>* add_leaf(const ClockNode<Child>* old, Slot leaf_slot, const LeafEpochs& epochs) {
  auto* node = old != nullptr ? new ClockNode<Child>(*old) : new ClockNode<Child>;
  Child*& child = node->place(ClockNode<Child>::index_of(leaf_slot));
  Child* shared = child;
  child = add_leaf(shared, leaf_slot, epochs);
  drop(shared);
  return node;
}

}  // namespace

Clock::Clock(const Clock& other) : root_(share(other.root_)) {}
Clock::~Clock() { drop(root_); }

Epoch Clock::at(Slot slot) const { return epoch_at(root_, slot); }

Clock Clock::with(Slot slot, Epoch epoch) const {
  if (at(slot) >= epoch) return *this;
  Epoch epochs[kLeafSlots] = {};
  epochs[slot % kLeafSlots] = epoch;
  return with_leaf(slot - slot % kLeafSlots, epochs);
}

Clock Clock::with_leaf(Slot leaf_slot, const Epoch (&epochs)[kLeafSlots]) const {
  static_assert(Root::kSlots == kMaxSlots);
  if (leaf_slot >= kMaxSlots) throw std::length_error("too many threads for the happens-before checker");
  return Clock(add_leaf(root_, leaf_slot, epochs));
}

Clock Clock::join(const Clock& a, const Clock& b) {
  if (a.root_ == b.root_ || b.root_ == nullptr) return a;
  if (a.root_ == nullptr) return b;
  return Clock(join_nodes(a.root_, b.root_));
}

Clock ClockJoiner::join(const Clock& a, const Clock& b) {
  if (a == b || b == Clock()) return a;
  if (a == Clock()) return b;
  constexpr uintptr_t kMix = 0x9e3779b97f4a7c15;
  Entry& entry = memory_[((a.identity() * kMix) ^ (b.identity() * (kMix << 1))) >> 56];
  if (!(entry.a == a && entry.b == b)) entry = {a, b, Clock::join(a, b)};
  return entry.joined;
}

}  // namespace nccl_ep::sim::check

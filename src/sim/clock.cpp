// SPDX-License-Identifier: Apache-2.0
#include "sim/clock.hpp"

#include <algorithm>
#include <stdexcept>

namespace nccl_ep::sim::check {

struct Clock::Leaf {
  uint32_t num_owners = 1;
  Epoch epochs[kLeafSlots];
};

namespace {

// A node with children that are shared with other trees, or null where nothing is known.
template <class Child>
struct Node {
  uint32_t num_owners = 1;
  Child* children[Clock::kFanOut] = {};

  Node() = default;
  Node(const Node& other) {
    std::copy(std::begin(other.children), std::end(other.children), children);
    for (Child* child : children) {
      if (child != nullptr) ++child->num_owners;
    }
  }
};

}  // namespace

struct Clock::Branch : Node<Leaf> {};
struct Clock::Root : Node<Branch> {};

namespace {

// Drop an owner; the last one takes the node with it.
template <class Leaf>
void drop_leaf(Leaf* leaf) {
  if (leaf != nullptr && --leaf->num_owners == 0) delete leaf;
}

template <class Branch>
void drop_branch(Branch* branch) {
  if (branch == nullptr || --branch->num_owners != 0) return;
  for (auto* leaf : branch->children) drop_leaf(leaf);
  delete branch;
}

// The joins return a node that the caller owns a share of: `a` or `b` themselves where one knows all of the
// other.
template <class Leaf>
Leaf* join_leaves(Leaf* a, Leaf* b) {
  Leaf joined;
  bool is_a = true, is_b = true;
  for (uint32_t i = 0; i < Clock::kLeafSlots; ++i) {
    joined.epochs[i] = std::max(a->epochs[i], b->epochs[i]);
    is_a &= joined.epochs[i] == a->epochs[i];
    is_b &= joined.epochs[i] == b->epochs[i];
  }
  if (is_a || is_b) {
    Leaf* whole = is_a ? a : b;
    ++whole->num_owners;
    return whole;
  }
  return new Leaf(joined);
}

template <class Parent, class Child>
Parent* join_nodes(Parent* a, Parent* b, Child* (*join_children)(Child*, Child*), void (*drop)(Child*)) {
  Child* joined[Clock::kFanOut];
  bool is_a = true, is_b = true;
  for (uint32_t i = 0; i < Clock::kFanOut; ++i) {
    Child *x = a->children[i], *y = b->children[i];
    if (x == y || y == nullptr || x == nullptr) {
      joined[i] = x != nullptr ? x : y;
      if (joined[i] != nullptr) ++joined[i]->num_owners;
    } else {
      joined[i] = join_children(x, y);
    }
    is_a &= joined[i] == x;
    is_b &= joined[i] == y;
  }
  if (is_a || is_b) {
    for (Child* child : joined) drop(child);
    Parent* whole = is_a ? a : b;
    ++whole->num_owners;
    return whole;
  }
  Parent* result = new Parent;
  std::copy(std::begin(joined), std::end(joined), result->children);
  return result;
}

template <class Branch, class Leaf>
Branch* join_branches(Branch* a, Branch* b) {
  return join_nodes<Branch, Leaf>(a, b, join_leaves<Leaf>, drop_leaf<Leaf>);
}

}  // namespace

void Clock::retain(Root* root) {
  if (root != nullptr) ++root->num_owners;
}

void Clock::release(Root* root) {
  if (root == nullptr || --root->num_owners != 0) return;
  for (Branch* branch : root->children) drop_branch(branch);
  delete root;
}

Epoch Clock::at(Slot slot) const {
  if (root_ == nullptr) return 0;
  const Branch* branch = root_->children[slot / (kLeafSlots * kFanOut)];
  if (branch == nullptr) return 0;
  const Leaf* leaf = branch->children[slot / kLeafSlots % kFanOut];
  return leaf != nullptr ? leaf->epochs[slot % kLeafSlots] : 0;
}

Clock Clock::with(Slot slot, Epoch epoch) const {
  if (at(slot) >= epoch) return *this;
  Epoch epochs[kLeafSlots] = {};
  epochs[slot % kLeafSlots] = epoch;
  return with_leaf(slot - slot % kLeafSlots, epochs);
}

Clock Clock::with_leaf(Slot leaf_slot, const Epoch (&epochs)[kLeafSlots]) const {
  if (leaf_slot >= kMaxSlots) throw std::length_error("too many threads for the happens-before checker");
  const uint32_t branch_index = leaf_slot / (kLeafSlots * kFanOut), leaf_index = leaf_slot / kLeafSlots % kFanOut;

  Clock result(root_ != nullptr ? new Root(*root_) : new Root);
  Branch*& branch = result.root_->children[branch_index];
  Branch* shared_branch = branch;
  branch = shared_branch != nullptr ? new Branch(*shared_branch) : new Branch;
  drop_branch(shared_branch);

  Leaf*& leaf = branch->children[leaf_index];
  Leaf* shared_leaf = leaf;
  leaf = new Leaf;
  for (uint32_t i = 0; i < kLeafSlots; ++i) {
    leaf->epochs[i] = shared_leaf != nullptr ? std::max(shared_leaf->epochs[i], epochs[i]) : epochs[i];
  }
  drop_leaf(shared_leaf);
  return result;
}

Clock Clock::join(const Clock& a, const Clock& b) {
  if (a.root_ == b.root_ || b.root_ == nullptr) return a;
  if (a.root_ == nullptr) return b;
  return Clock(join_nodes<Root, Branch>(a.root_, b.root_, join_branches<Branch, Leaf>, drop_branch<Branch>));
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

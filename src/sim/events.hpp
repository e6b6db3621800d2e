// SPDX-License-Identifier: Apache-2.0
// What is to happen at later steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace nccl_ep::sim {

class EventQueue {
 public:
  static constexpr uint64_t kNever = ~uint64_t{0};

  void add(uint64_t due, std::function<void()> action) {
    events_.push_back({due, num_added_++, std::move(action)});
    std::push_heap(events_.begin(), events_.end(), is_later);
  }
  bool empty() const { return events_.empty(); }
  uint64_t next_due() const { return events_.empty() ? kNever : events_.front().due; }
  // The first one; those that are due at the same step in the order in which they were added.
  std::function<void()> take() {
    std::pop_heap(events_.begin(), events_.end(), is_later);
    std::function<void()> action = std::move(events_.back().action);
    events_.pop_back();
    return action;
  }

 private:
  struct Event {
    uint64_t due;
    uint64_t number;
    std::function<void()> action;
  };
  static bool is_later(const Event& a, const Event& b) { return a.due != b.due ? a.due > b.due : a.number > b.number; }

  std::vector<Event> events_;
  uint64_t num_added_ = 0;
};

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// What is published at the words that threads synchronise through, by address. Internal to the checker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "sim/agents.hpp"

namespace nccl_ep::sim::check {

// A flag or counter: the messages a load finds there. A store replaces them; a read-modify-write adds to
// them, since it continues the release sequences it reads from.
struct Word {
  std::vector<Message> messages;

  // At most one message per scope and block of authors.
  void add(const Message& message, ClockJoiner& joiner);
};

struct Mbarrier {
  Knowledge arriving;   // of the threads and copies that have come in the current phase
  Knowledge completed;  // of the phase before
  bool init_fenced = false;
};

// Values of one kind by address, cheap to find and to clear by range.
template <class Value>
class AddressMap {
 public:
  Value* find(uintptr_t address) {
    const auto page = pages_.find(address / kPageBytes);
    if (page == pages_.end()) return nullptr;
    const auto value = page->second.find(address);
    return value != page->second.end() ? &value->second : nullptr;
  }

  Value& at(uintptr_t address) { return pages_[address / kPageBytes][address]; }

  void clear(uintptr_t begin, size_t bytes) {
    if (bytes == 0) return;
    const uintptr_t first = begin / kPageBytes, last = (begin + bytes - 1) / kPageBytes;
    const auto is_inside = [&](const auto& entry) { return entry.first - begin < bytes; };
    if (last - first < pages_.size()) {
      for (uintptr_t page = first; page <= last; ++page) {
        const auto entry = pages_.find(page);
        if (entry != pages_.end()) std::erase_if(entry->second, is_inside);
      }
    } else {
      for (auto& [page, values] : pages_) {
        if (page >= first && page <= last) std::erase_if(values, is_inside);
      }
    }
  }

 private:
  static constexpr uintptr_t kPageBytes = 4096;
  std::unordered_map<uintptr_t, std::unordered_map<uintptr_t, Value>> pages_;
};

}  // namespace nccl_ep::sim::check

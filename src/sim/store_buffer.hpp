// SPDX-License-Identifier: Apache-2.0
// Stores to other ranks' memory that have not been performed yet: weak ones, units and lines.
//
// A store is pending in the list of those who know of it: its thread, from sync_warp on its warp, from a barrier on
// its block, from a release at GPU scope on its rank. A release at system scope performs the lists of those it speaks
// for; one of a narrower scope only widens the circle. Until then a weak store may be performed at any time or not at
// all, a unit or a line at any time: pollers count on it. Stores to the same bytes keep their order, as on any GPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/random.hpp"
#include "sim/units.hpp"

namespace nccl_ep::sim {

struct PendingStore;

struct StoreList {
  PendingStore* first = nullptr;
  PendingStore* last = nullptr;

  bool empty() const { return first == nullptr; }
};

class StoreBuffer {
 public:
  enum class Kind { weak, unit, line };

  // Calls `on_arrival` when a unit or a line has been performed.
  StoreBuffer(Random random, std::function<void(void* address, size_t bytes)> on_arrival);
  ~StoreBuffer();
  StoreBuffer(const StoreBuffer&) = delete;
  StoreBuffer& operator=(const StoreBuffer&) = delete;

  // A weak store or a unit. The bytes do not cross a multiple of sixteen.
  void add(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes);
  // The units of a line, which arrive together, and the list that each goes to.
  struct LinePart {
    StoreList* list;
    const void* unit;
  };
  void add_line(void* line, const std::array<LinePart, kUnitsPerLine>& parts);
  // Moves what is in `from` to `to`.
  void widen(StoreList& from, StoreList& to);
  void perform(StoreList& list);
  // Those that touch these bytes: before somebody reads or writes there in another way.
  void perform_at(const void* address, size_t bytes);
  // One of them, whichever; one that is or touches units or a line, if there is one.
  void perform_any();
  void perform_any_arrival();

  size_t num_pending() const { return weak_.size() + arrivals_.size(); }
  size_t num_pending_arrivals() const { return arrivals_.size(); }

 private:
  // Stores that are performed together, oldest first: those to the same sixteen bytes, or the lines at an address.
  struct Batch {
    PendingStore* first;
    PendingStore* last;
    Kind kind;        // of the first
    size_t position;  // in batches(kind)
  };

  std::vector<uintptr_t>& batches(Kind kind) { return kind == Kind::weak ? weak_ : arrivals_; }
  PendingStore* take_node();
  void append(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes);
  void perform_batch(uintptr_t key);
  void perform_batch_if_any(uintptr_t key);

  Random random_;
  std::function<void(void*, size_t)> on_arrival_;
  std::unordered_map<uintptr_t, Batch> by_key_;
  std::vector<uintptr_t> weak_, arrivals_;  // keys of the batches, by kind
  size_t num_lines_ = 0;                    // batches of lines
  std::vector<std::unique_ptr<PendingStore[]>> slabs_;
  PendingStore* free_ = nullptr;
};

}  // namespace nccl_ep::sim

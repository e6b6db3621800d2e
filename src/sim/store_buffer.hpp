// SPDX-License-Identifier: Apache-2.0
// Stores to other ranks' memory that have not been performed yet: weak ones, and units.
//
// A store is pending in the list of those who know of it: its thread, from sync_warp on its warp, from a barrier on
// its block, from a release at GPU scope on its rank. A release at system scope performs the lists of those it speaks
// for; one of a narrower scope only widens the circle. Until then a weak store may be performed at any time or not at
// all, a unit at any time: pollers count on it. Stores to the same sixteen bytes keep their order, as on any GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/random.hpp"

namespace nccl_ep::sim {

struct PendingStore;

struct StoreList {
  PendingStore* first = nullptr;
  PendingStore* last = nullptr;

  bool empty() const { return first == nullptr; }
};

class StoreBuffer {
 public:
  enum class Kind { weak, unit };

  // Calls `on_unit` when a unit has been performed.
  StoreBuffer(Random random, std::function<void(void*)> on_unit);
  ~StoreBuffer();
  StoreBuffer(const StoreBuffer&) = delete;
  StoreBuffer& operator=(const StoreBuffer&) = delete;

  // The bytes do not cross a multiple of sixteen.
  void add(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes);
  // Moves what is in `from` to `to`.
  void widen(StoreList& from, StoreList& to);
  void perform(StoreList& list);
  // Those that touch these bytes: before somebody reads or writes there in another way.
  void perform_at(const void* address, size_t bytes);
  // One of them, whichever; one that touches units, if there is one.
  void perform_any();
  void perform_any_unit();

  size_t num_pending() const { return granules_[0].size() + granules_[1].size(); }
  size_t num_pending_units() const { return granules_[1].size(); }

 private:
  // Stores to the same sixteen bytes, oldest first.
  struct Granule {
    PendingStore* first;
    PendingStore* last;
    Kind kind;        // of the first
    size_t position;  // in granules_
  };

  std::vector<uintptr_t>& granules(Kind kind) { return granules_[static_cast<int>(kind)]; }
  PendingStore* take_node();
  void perform_granule(uintptr_t granule);

  Random random_;
  std::function<void(void*)> on_unit_;
  std::unordered_map<uintptr_t, Granule> by_granule_;
  std::vector<uintptr_t> granules_[2];  // those with pending stores, by kind
  std::vector<std::unique_ptr<PendingStore[]>> slabs_;
  PendingStore* free_ = nullptr;
};

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// Weak stores to other ranks' memory that have not been performed yet.
//
// A store is pending in the list of those who know of it: its thread, from sync_warp on its warp, from a barrier on
// its block, from a release at GPU scope on its rank. A release at system scope performs the lists of those it speaks
// for; one of a narrower scope only widens the circle. Until then a store is performed at a random time (`random`) or
// not at all (`late`). Stores to the same sixteen bytes keep their order, as on any GPU.
#pragma once

#include <cstddef>
#include <cstdint>
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
  explicit StoreBuffer(Random random);
  ~StoreBuffer();
  StoreBuffer(const StoreBuffer&) = delete;
  StoreBuffer& operator=(const StoreBuffer&) = delete;

  // The bytes do not cross a multiple of sixteen.
  void add(StoreList& list, void* address, const void* value, uint32_t bytes);
  // Moves what is in `from` to `to`.
  void widen(StoreList& from, StoreList& to);
  void perform(StoreList& list);
  // Those that touch these bytes: before somebody reads or writes there in another way.
  void perform_at(const void* address, size_t bytes);
  // One of them, whichever.
  void perform_any();

  size_t num_pending() const { return granules_.size(); }

 private:
  // Stores to the same sixteen bytes, oldest first.
  struct Granule {
    PendingStore* first;
    PendingStore* last;
    size_t position;  // in granules_
  };

  PendingStore* take_node();
  void perform_granule(uintptr_t granule);

  Random random_;
  std::unordered_map<uintptr_t, Granule> by_granule_;
  std::vector<uintptr_t> granules_;  // those with pending stores
  std::vector<std::unique_ptr<PendingStore[]>> slabs_;
  PendingStore* free_ = nullptr;
};

}  // namespace nccl_ep::sim

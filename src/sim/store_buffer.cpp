// SPDX-License-Identifier: Apache-2.0
#include "sim/store_buffer.hpp"

#include <cstring>

namespace nccl_ep::sim {

struct PendingStore {
  PendingStore* next_in_list;
  PendingStore* next_in_granule;
  void* address;
  uint32_t bytes;
  bool performed;
  std::byte value[16];
};

namespace {

constexpr uintptr_t kGranuleBytes = 16;
constexpr size_t kNodesPerSlab = 1024;

uintptr_t granule_of(const void* address) { return reinterpret_cast<uintptr_t>(address) / kGranuleBytes; }

}  // namespace

StoreBuffer::StoreBuffer(Random random) : random_(random) {}
StoreBuffer::~StoreBuffer() = default;

PendingStore* StoreBuffer::take_node() {
  if (free_ == nullptr) {
    slabs_.push_back(std::make_unique<PendingStore[]>(kNodesPerSlab));
    for (size_t i = 0; i < kNodesPerSlab; ++i) {
      slabs_.back()[i].next_in_list = free_;
      free_ = &slabs_.back()[i];
    }
  }
  PendingStore* node = free_;
  free_ = node->next_in_list;
  return node;
}

void StoreBuffer::add(StoreList& list, void* address, const void* value, uint32_t bytes) {
  PendingStore* store = take_node();
  store->next_in_list = store->next_in_granule = nullptr;
  store->address = address;
  store->bytes = bytes;
  store->performed = false;
  std::memcpy(store->value, value, bytes);

  (list.empty() ? list.first : list.last->next_in_list) = store;
  list.last = store;

  const uintptr_t key = granule_of(address);
  const auto [granule, is_new] = by_granule_.try_emplace(key, Granule{store, store, granules_.size()});
  if (is_new) {
    granules_.push_back(key);
  } else {
    granule->second.last->next_in_granule = store;
    granule->second.last = store;
  }
}

void StoreBuffer::widen(StoreList& from, StoreList& to) {
  if (from.empty()) return;
  (to.empty() ? to.first : to.last->next_in_list) = from.first;
  to.last = from.last;
  from = {};
}

// Everything pending at the same place goes along, so nothing is overwritten by something older.
void StoreBuffer::perform(StoreList& list) {
  while (!list.empty()) {
    PendingStore* store = list.first;
    list.first = store->next_in_list;
    if (!store->performed) perform_granule(granule_of(store->address));
    store->next_in_list = free_;
    free_ = store;
  }
  list.last = nullptr;
}

void StoreBuffer::perform_at(const void* address, size_t bytes) {
  if (granules_.empty()) return;
  const uintptr_t end = granule_of(static_cast<const std::byte*>(address) + bytes + kGranuleBytes - 1);
  for (uintptr_t granule = granule_of(address); granule < end; ++granule) {
    if (by_granule_.contains(granule)) perform_granule(granule);
  }
}

void StoreBuffer::perform_any() {
  if (!granules_.empty()) perform_granule(granules_[random_.below(granules_.size())]);
}

void StoreBuffer::perform_granule(uintptr_t key) {
  const auto granule = by_granule_.find(key);
  for (PendingStore* store = granule->second.first; store != nullptr; store = store->next_in_granule) {
    std::memcpy(store->address, store->value, store->bytes);
    store->performed = true;
  }
  const size_t position = granule->second.position;
  by_granule_.erase(granule);
  if (position + 1 != granules_.size()) {
    granules_[position] = granules_.back();
    by_granule_.find(granules_[position])->second.position = position;
  }
  granules_.pop_back();
}

}  // namespace nccl_ep::sim

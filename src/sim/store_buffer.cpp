// SPDX-License-Identifier: Apache-2.0
#include "sim/store_buffer.hpp"

#include <cstring>
#include <utility>

namespace nccl_ep::sim {

struct PendingStore {
  PendingStore* next_in_list;
  PendingStore* next_in_granule;
  void* address;
  uint32_t bytes;
  StoreBuffer::Kind kind;
  bool performed;
  std::byte value[16];
};

namespace {

constexpr uintptr_t kGranuleBytes = 16;
constexpr size_t kNodesPerSlab = 1024;

uintptr_t granule_of(const void* address) { return reinterpret_cast<uintptr_t>(address) / kGranuleBytes; }

}  // namespace

StoreBuffer::StoreBuffer(Random random, std::function<void(void*)> on_unit)
    : random_(random), on_unit_(std::move(on_unit)) {}
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

void StoreBuffer::add(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes) {
  PendingStore* store = take_node();
  store->next_in_list = store->next_in_granule = nullptr;
  store->address = address;
  store->bytes = bytes;
  store->kind = kind;
  store->performed = false;
  std::memcpy(store->value, value, bytes);

  (list.empty() ? list.first : list.last->next_in_list) = store;
  list.last = store;

  const uintptr_t key = granule_of(address);
  const auto [granule, is_new] = by_granule_.try_emplace(key, Granule{store, store, kind, granules(kind).size()});
  if (is_new) {
    granules(kind).push_back(key);
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
  if (num_pending() == 0) return;
  const uintptr_t end = granule_of(static_cast<const std::byte*>(address) + bytes + kGranuleBytes - 1);
  for (uintptr_t granule = granule_of(address); granule < end; ++granule) {
    if (by_granule_.contains(granule)) perform_granule(granule);
  }
}

void StoreBuffer::perform_any() {
  if (num_pending() == 0) return;
  const size_t chosen = random_.below(num_pending()), num_weak = granules_[0].size();
  perform_granule(chosen < num_weak ? granules_[0][chosen] : granules_[1][chosen - num_weak]);
}

void StoreBuffer::perform_any_unit() {
  if (num_pending_units() > 0) perform_granule(granules_[1][random_.below(num_pending_units())]);
}

void StoreBuffer::perform_granule(uintptr_t key) {
  const auto entry = by_granule_.find(key);
  const Granule granule = entry->second;
  by_granule_.erase(entry);
  std::vector<uintptr_t>& all = granules(granule.kind);
  if (granule.position + 1 != all.size()) {
    all[granule.position] = all.back();
    by_granule_.find(all.back())->second.position = granule.position;
  }
  all.pop_back();
  for (PendingStore* store = granule.first; store != nullptr; store = store->next_in_granule) {
    std::memcpy(store->address, store->value, store->bytes);
    store->performed = true;
    if (store->kind == Kind::unit) on_unit_(store->address);
  }
}

}  // namespace nccl_ep::sim

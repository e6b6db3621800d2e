// SPDX-License-Identifier: Apache-2.0
#include "sim/store_buffer.hpp"

#include <cstring>
#include <utility>

namespace nccl_ep::sim {

struct PendingStore {
  PendingStore* next_in_list;
  PendingStore* next_in_batch;
  void* address;
  uint32_t bytes;
  StoreBuffer::Kind kind;
  bool performed;
  std::byte value[kUnitBytes];
};

namespace {

constexpr size_t kNodesPerSlab = 1024;

// The names of batches: addresses, odd ones for lines.
uintptr_t key_of_unit(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at - at % kUnitBytes;
}
uintptr_t key_of_line(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at - at % kLineBytes + 1;
}
uintptr_t key_of(StoreBuffer::Kind kind, const void* address) {
  return kind == StoreBuffer::Kind::line ? key_of_line(address) : key_of_unit(address);
}
void* line_of(uintptr_t key) { return reinterpret_cast<void*>(key - 1); }

}  // namespace

StoreBuffer::StoreBuffer(Random random, std::function<void(void*, size_t)> on_arrival)
    : random_(random), on_arrival_(std::move(on_arrival)) {}
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

// What is pending there in another way comes first.
void StoreBuffer::add(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes) {
  if (num_lines_ > 0) perform_batch_if_any(key_of_line(address));
  append(list, kind, address, value, bytes);
}

void StoreBuffer::add_line(void* line, const std::array<LinePart, kUnitsPerLine>& parts) {
  auto* address = static_cast<std::byte*>(line);
  const bool has_others = num_pending() > num_lines_;
  for (const LinePart& part : parts) {
    if (has_others) perform_batch_if_any(key_of_unit(address));
    append(*part.list, Kind::line, address, part.unit, kUnitBytes);
    address += kUnitBytes;
  }
}

void StoreBuffer::append(StoreList& list, Kind kind, void* address, const void* value, uint32_t bytes) {
  PendingStore* store = take_node();
  store->next_in_list = store->next_in_batch = nullptr;
  store->address = address;
  store->bytes = bytes;
  store->kind = kind;
  store->performed = false;
  std::memcpy(store->value, value, bytes);

  (list.empty() ? list.first : list.last->next_in_list) = store;
  list.last = store;

  const uintptr_t key = key_of(kind, address);
  const auto [batch, is_new] = by_key_.try_emplace(key, Batch{store, store, kind, batches(kind).size()});
  if (is_new) {
    batches(kind).push_back(key);
    if (kind == Kind::line) ++num_lines_;
  } else {
    batch->second.last->next_in_batch = store;
    batch->second.last = store;
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
    if (!store->performed) perform_batch(key_of(store->kind, store->address));
    store->next_in_list = free_;
    free_ = store;
  }
  list.last = nullptr;
}

void StoreBuffer::perform_at(const void* address, size_t bytes) {
  if (num_pending() == 0) return;
  const uintptr_t end = reinterpret_cast<uintptr_t>(address) + bytes;
  for (uintptr_t key = key_of_unit(address); key < end; key += kUnitBytes) perform_batch_if_any(key);
  if (num_lines_ == 0) return;
  for (uintptr_t key = key_of_line(address); key <= end; key += kLineBytes) perform_batch_if_any(key);
}

void StoreBuffer::perform_any() {
  if (num_pending() == 0) return;
  const size_t chosen = random_.below(num_pending()), num_weak = weak_.size();
  perform_batch(chosen < num_weak ? weak_[chosen] : arrivals_[chosen - num_weak]);
}

void StoreBuffer::perform_any_arrival() {
  if (num_pending_arrivals() > 0) perform_batch(arrivals_[random_.below(num_pending_arrivals())]);
}

void StoreBuffer::perform_batch_if_any(uintptr_t key) {
  if (by_key_.contains(key)) perform_batch(key);
}

void StoreBuffer::perform_batch(uintptr_t key) {
  const auto entry = by_key_.find(key);
  const Batch batch = entry->second;
  by_key_.erase(entry);
  std::vector<uintptr_t>& all = batches(batch.kind);
  if (batch.position + 1 != all.size()) {
    all[batch.position] = all.back();
    by_key_.find(all.back())->second.position = batch.position;
  }
  all.pop_back();
  for (PendingStore* store = batch.first; store != nullptr; store = store->next_in_batch) {
    std::memcpy(store->address, store->value, store->bytes);
    store->performed = true;
    if (store->kind == Kind::unit) on_arrival_(store->address, kUnitBytes);
  }
  if (batch.kind != Kind::line) return;
  --num_lines_;
  on_arrival_(line_of(key), kLineBytes);
}

}  // namespace nccl_ep::sim

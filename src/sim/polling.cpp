// SPDX-License-Identifier: Apache-2.0
#include "sim/polling.hpp"

#include "sim/grid.hpp"

namespace nccl_ep::sim {

namespace {

constexpr uintptr_t kGranuleBytes = 16;
constexpr uint32_t kRepeats = 3;
// A thread that looks at more places than there is room for is parked after so many reads. Nothing may wake it in
// time then, but all are let loose when nobody else can go on.
constexpr uint32_t kManyReads = 4096;

}  // namespace

void Polling::forget() {
  for (uint32_t i = 0; i < num_places; ++i) places[i].repeats = 0;
  idle_reads = 0;
}

Polling::Reading Polling::note(uintptr_t address, uint32_t bytes, uint64_t value) {
  ++idle_reads;
  for (uint32_t i = 0; i < num_places; ++i) {
    PolledPlace& place = places[i];
    if (place.address != address || place.bytes != bytes) continue;
    if (place.value != value) {
      forget();
      place.value = value;
      return Reading::changed;
    }
    return ++place.repeats >= kRepeats || idle_reads >= kManyReads ? Reading::idle : Reading::unchanged;
  }
  if (num_places < kMaxPlaces) oldest = num_places++;
  PolledPlace& place = places[oldest];
  oldest = (oldest + 1) % kMaxPlaces;
  for (uint32_t i = 0; i < num_places; ++i) places[i].repeats = 0;
  place.address = address;
  place.bytes = bytes;
  place.value = value;
  return idle_reads >= kManyReads ? Reading::idle : Reading::unchanged;
}

bool Polling::note_pause() {
  ++idle_reads;
  return num_places == 0 ? idle_reads >= kRepeats : idle_reads >= kManyReads;
}

void ParkedThreads::park(GpuThread& thread) {
  Polling& polling = thread.polling;
  polling.parked = true;
  polling.previous_parked = last_;
  polling.next_parked = nullptr;
  (last_ != nullptr ? last_->polling.next_parked : first_) = &thread;
  last_ = &thread;
  // At the places that it has kept coming back to; the one read last is the first to reach kRepeats.
  for (uint32_t i = 0; i < polling.num_places; ++i) {
    if (polling.places[i].repeats + 1 >= kRepeats) link(thread, polling.places[i]);
  }
}

void ParkedThreads::link(GpuThread& thread, PolledPlace& place) {
  Queue& queue = queues_[place.address / kGranuleBytes];
  place.linked = true;
  place.thread = &thread;
  place.previous = queue.last;
  place.next = nullptr;
  (queue.last != nullptr ? queue.last->next : queue.first) = &place;
  queue.last = &place;
}

void ParkedThreads::unlink(PolledPlace& place) {
  const auto queue = queues_.find(place.address / kGranuleBytes);
  place.linked = false;
  (place.previous != nullptr ? place.previous->next : queue->second.first) = place.next;
  (place.next != nullptr ? place.next->previous : queue->second.last) = place.previous;
  if (queue->second.first == nullptr) queues_.erase(queue);
}

void ParkedThreads::release(GpuThread& thread) {
  Polling& polling = thread.polling;
  for (PolledPlace& place : polling.places) {
    if (place.linked) unlink(place);
  }
  GpuThread *previous = polling.previous_parked, *next = polling.next_parked;
  (previous != nullptr ? previous->polling.next_parked : first_) = next;
  (next != nullptr ? next->polling.previous_parked : last_) = previous;
  polling.parked = false;
  polling.forget();
}

const std::vector<GpuThread*>& ParkedThreads::take(uintptr_t begin, size_t bytes) {
  taken_.clear();
  const uintptr_t end = begin + bytes;
  for (uintptr_t granule = begin / kGranuleBytes; granule * kGranuleBytes < end && !queues_.empty(); ++granule) {
    take_at(granule, begin, end);
  }
  return taken_;
}

void ParkedThreads::take_at(uintptr_t granule, uintptr_t begin, uintptr_t end) {
  const auto queue = queues_.find(granule);
  if (queue == queues_.end()) return;
  const size_t num_taken = taken_.size();
  for (PolledPlace* place = queue->second.first; place != nullptr; place = place->next) {
    if (place->address >= end || begin >= place->address + place->bytes) continue;
    const bool has_two_places_here = taken_.size() > num_taken && taken_.back() == place->thread;
    if (!has_two_places_here) taken_.push_back(place->thread);
  }
  for (size_t i = num_taken; i < taken_.size(); ++i) release(*taken_[i]);
}

const std::vector<GpuThread*>& ParkedThreads::take_all() {
  taken_.clear();
  while (first_ != nullptr) {
    taken_.push_back(first_);
    release(*first_);
  }
  return taken_;
}

}  // namespace nccl_ep::sim

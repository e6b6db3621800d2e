// SPDX-License-Identifier: Apache-2.0
#include "sim/polling.hpp"

#include <bit>
#include <cstring>
#include <utility>

#include "sim/grid.hpp"
#include "sim/units.hpp"

namespace nccl_ep::sim {

namespace {

constexpr uint32_t kRepeats = 3;
constexpr uint32_t kRounds = 2;
// Looks at one place in a row make no round, since others may come next; only so many of them do.
constexpr uint32_t kLooksInARow = 16;
// A thread that looks at more places than there is room for is parked after so many reads. Nothing may wake it in
// time then, but all are let loose when nobody else can go on.
constexpr uint32_t kManyReads = 4096;

bool is_up_to_date(const PolledPlace& place) { return place.address == 0 || place.read() == place.value; }

// Whether a lane has looked at it since the last news of its warp.
bool is_recent(const PolledPlace& place, const WarpPolling& warp) { return place.meeting > warp.news_meeting; }

// Calls body(thread, place) for all places of these lanes.
template <class Body>
void for_each_place(Warp& warp, uint32_t lanes, Body body) {
  for (; lanes != 0; lanes &= lanes - 1) {
    GpuThread& thread = warp.threads[std::countr_zero(lanes)];
    for (uint32_t i = 0; i < thread.polling.num_places; ++i) body(thread.polling.places[i]);
  }
}

}  // namespace

uint64_t PolledPlace::read() const {
  const auto* memory = reinterpret_cast<const std::byte*>(address);
  uint64_t word = 0;
  if (bytes <= sizeof(word)) {
    std::memcpy(&word, memory, bytes);
    return word;
  }
  uint64_t digest = 0;
  for (uint32_t i = 0; i < bytes; i += sizeof(word)) {
    std::memcpy(&word, memory + i, sizeof(word));
    digest = std::rotl((digest ^ word) * 0x9e3779b97f4a7c15, 29);
  }
  return digest;
}

void Polling::forget() {
  for (uint32_t i = 0; i < num_places; ++i) places[i].repeats = 0;
  idle_reads = 0;
}

Polling::Reading Polling::note(const void* p, uint32_t bytes, const char* what, WarpPolling& warp) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  const bool reads_on_and_on = ++idle_reads >= kManyReads;
  for (uint32_t i = 0; i < num_places; ++i) {
    PolledPlace& place = places[i];
    if (place.address != address || place.bytes != bytes) continue;
    const bool was_recent = is_recent(place, warp);
    const bool met = std::exchange(place.meeting, warp.num_meetings) != warp.num_meetings;
    if (!is_up_to_date(place)) {
      place.value = place.read();
      forget();
      warp.note_news();
      return Reading::changed;
    }
    if (!met) return ++place.repeats >= kRepeats || reads_on_and_on ? Reading::idle : Reading::unchanged;
    place.repeats = 0;
    const bool in_a_row = std::exchange(latest, i) == i && was_recent;
    looks_in_a_row = in_a_row ? looks_in_a_row + 1 : 0;
    if (!in_a_row) place.rounds = was_recent ? place.rounds + 1 : 0;
    if (place.rounds >= kRounds || looks_in_a_row >= kLooksInARow || reads_on_and_on) warp.came_round = true;
    return Reading::unchanged;
  }
  if (num_places < kMaxPlaces) oldest = num_places++;
  PolledPlace& place = places[oldest];
  latest = oldest;
  looks_in_a_row = 0;
  oldest = (oldest + 1) % kMaxPlaces;
  for (uint32_t i = 0; i < num_places; ++i) places[i].repeats = 0;
  place = {address, bytes, what};
  place.meeting = warp.num_meetings;
  if (address != 0) place.value = place.read();
  warp.note_news();
  warp.came_round = reads_on_and_on;
  return reads_on_and_on ? Reading::idle : Reading::unchanged;
}

// At the places that it has kept coming back to; the one read last is the first to reach kRepeats.
bool ParkedThreads::park(GpuThread& thread) {
  Polling& polling = thread.polling;
  const auto is_polled = [](const PolledPlace& place) { return place.repeats + 1 >= kRepeats; };
  for (uint32_t i = 0; i < polling.num_places; ++i) {
    if (!is_polled(polling.places[i]) || is_up_to_date(polling.places[i])) continue;
    polling.forget();
    return false;
  }
  add(polling.sleeper, *thread.warp, thread.lane_bit());
  for (uint32_t i = 0; i < polling.num_places; ++i) {
    if (is_polled(polling.places[i])) link(polling.sleeper, polling.places[i]);
  }
  return true;
}

bool ParkedThreads::park(Warp& warp, uint32_t lanes) {
  bool has_news = false;
  for_each_place(warp, lanes, [&](const PolledPlace& place) {
    has_news = has_news || (is_recent(place, warp.polling) && !is_up_to_date(place));
  });
  if (has_news) {
    warp.polling.note_news();
    return false;
  }
  add(warp.polling.sleeper, warp, lanes);
  for_each_place(warp, lanes, [&](PolledPlace& place) {
    if (is_recent(place, warp.polling)) link(warp.polling.sleeper, place);
  });
  return true;
}

void ParkedThreads::add(Sleeper& sleeper, Warp& warp, uint32_t lanes) {
  sleeper = {&warp, lanes, last_, nullptr};
  (last_ != nullptr ? last_->next : first_) = &sleeper;
  last_ = &sleeper;
}

void ParkedThreads::link(Sleeper& sleeper, PolledPlace& place) {
  place.sleeper = &sleeper;
  if (place.address == 0) return;
  Queue& queue = queues_[place.address / kLineBytes];
  place.previous = queue.last;
  place.next = nullptr;
  (queue.last != nullptr ? queue.last->next : queue.first) = &place;
  queue.last = &place;
}

void ParkedThreads::unlink(PolledPlace& place) {
  place.sleeper = nullptr;
  if (place.address == 0) return;
  const auto queue = queues_.find(place.address / kLineBytes);
  (place.previous != nullptr ? place.previous->next : queue->second.first) = place.next;
  (place.next != nullptr ? place.next->previous : queue->second.last) = place.previous;
  if (queue->second.first == nullptr) queues_.erase(queue);
}

void ParkedThreads::release(Sleeper& sleeper) {
  Warp& warp = *sleeper.warp;
  taken_.push_back({&warp, sleeper.lanes});
  for_each_place(warp, sleeper.lanes, [&](PolledPlace& place) {
    if (place.sleeper != nullptr) unlink(place);
  });
  for (uint32_t lanes = sleeper.lanes; lanes != 0; lanes &= lanes - 1) {
    warp.threads[std::countr_zero(lanes)].polling.forget();
  }
  warp.polling.note_news();
  (sleeper.previous != nullptr ? sleeper.previous->next : first_) = sleeper.next;
  (sleeper.next != nullptr ? sleeper.next->previous : last_) = sleeper.previous;
  sleeper = {};
}

const std::vector<WokenLanes>& ParkedThreads::take(uintptr_t begin, size_t bytes) {
  taken_.clear();
  const uintptr_t end = begin + bytes;
  for (uintptr_t line = begin / kLineBytes; line * kLineBytes < end && !queues_.empty(); ++line) {
    take_at(line, begin, end);
  }
  return taken_;
}

void ParkedThreads::take_at(uintptr_t line, uintptr_t begin, uintptr_t end) {
  const auto queue = queues_.find(line);
  if (queue == queues_.end()) return;
  found_.clear();
  for (PolledPlace* place = queue->second.first; place != nullptr; place = place->next) {
    if (place->address >= end || begin >= place->address + place->bytes) continue;
    const bool has_two_places_here = !found_.empty() && found_.back() == place->sleeper;
    if (!has_two_places_here) found_.push_back(place->sleeper);
  }
  for (Sleeper* sleeper : found_) release(*sleeper);
}

const std::vector<WokenLanes>& ParkedThreads::take_all() {
  taken_.clear();
  while (first_ != nullptr) release(*first_);
  return taken_;
}

}  // namespace nccl_ep::sim

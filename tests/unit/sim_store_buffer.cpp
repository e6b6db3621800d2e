// SPDX-License-Identifier: Apache-2.0
// Pending stores: which are performed together, and in which order.
#include "sim/store_buffer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

using namespace nccl_ep::sim;

namespace {

using Kind = StoreBuffer::Kind;
using UnitBytes = std::array<uint32_t, 4>;

// Sixteen lines of memory, and who has heard of what arrived there.
struct Place {
  explicit Place(uint64_t seed = 1)
      : buffer(Random(seed), [this](void* address, size_t bytes) { arrivals.push_back({address, bytes}); }) {}

  void* line(uint32_t i) { return &memory[i]; }
  void* unit(uint32_t line, uint32_t i) { return &memory[line].units[i]; }
  void add_unit(StoreList& list, uint32_t line, uint32_t i, uint32_t value) {
    const UnitBytes bytes{value, value, value, value};
    buffer.add(list, Kind::unit, unit(line, i), &bytes, kUnitBytes);
  }
  // From eight lanes, with a list each.
  void add_line(std::array<StoreList, kUnitsPerLine>& lists, uint32_t line, uint32_t value) {
    const UnitBytes bytes{value, value, value, value};
    std::array<StoreBuffer::LinePart, kUnitsPerLine> parts;
    for (uint32_t i = 0; i < kUnitsPerLine; ++i) parts[i] = {&lists[i], &bytes};
    buffer.add_line(&memory[line], parts);
  }
  bool holds(uint32_t line, uint32_t value) const {
    for (const UnitBytes& unit : memory[line].units) {
      for (const uint32_t word : unit) {
        if (word != value) return false;
      }
    }
    return true;
  }

  struct alignas(kLineBytes) Line {
    UnitBytes units[kUnitsPerLine] = {};
  };
  std::vector<std::pair<void*, size_t>> arrivals;
  std::array<Line, 16> memory;
  StoreBuffer buffer;
};

}  // namespace

TEST_CASE("sim_store_buffer: whoever publishes one part of a line publishes it whole") {
  for (uint32_t who = 0; who < kUnitsPerLine; ++who) {
    Place place;
    std::array<StoreList, kUnitsPerLine> lists;
    place.add_line(lists, 3, 7);
    CHECK(place.holds(3, 0));
    CHECK(place.buffer.num_pending() == 1);
    CHECK(place.buffer.num_pending_arrivals() == 1);
    place.buffer.perform(lists[who]);
    CHECK(place.holds(3, 7));
    CHECK(place.arrivals == std::vector<std::pair<void*, size_t>>{{place.line(3), kLineBytes}});
    CHECK(place.buffer.num_pending() == 0);
    for (StoreList& list : lists) place.buffer.perform(list);
    CHECK(place.arrivals.size() == 1);
  }
}

TEST_CASE("sim_store_buffer: a look at any byte of a line finds all of it") {
  for (const uint32_t offset : {0u, 15u, 16u, 100u, 127u}) {
    Place place;
    std::array<StoreList, kUnitsPerLine> lists;
    place.add_line(lists, 1, 1);
    place.add_line(lists, 2, 2);
    place.add_line(lists, 3, 3);
    place.buffer.perform_at(static_cast<std::byte*>(place.line(2)) + offset, 1);
    CHECK(place.holds(1, 0));
    CHECK(place.holds(2, 2));
    CHECK(place.holds(3, 0));
    place.buffer.perform_at(place.line(0), 3 * kLineBytes);
    CHECK(place.holds(1, 1));
    CHECK(place.holds(3, 0));
  }
}

TEST_CASE("sim_store_buffer: lines arrive one at a time, whole, in any order") {
  std::vector<void*> first_arrivals;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Place place(seed);
    std::array<StoreList, kUnitsPerLine> lists;
    for (uint32_t line = 0; line < 16; ++line) place.add_line(lists, line, 5);
    for (size_t num_arrived = 1; num_arrived <= 16; ++num_arrived) {
      num_arrived % 2 == 0 ? place.buffer.perform_any() : place.buffer.perform_any_arrival();
      CHECK(place.arrivals.size() == num_arrived);
      uint32_t num_whole = 0;
      for (uint32_t line = 0; line < 16; ++line) {
        CHECK((place.holds(line, 0) || place.holds(line, 5)));
        num_whole += place.holds(line, 5) ? 1 : 0;
      }
      CHECK(num_whole == num_arrived);
    }
    if (place.arrivals[0].first != place.line(0)) first_arrivals.push_back(place.arrivals[0].first);
  }
  CHECK(first_arrivals.size() > 10);
}

TEST_CASE("sim_store_buffer: stores to the same bytes keep their order") {
  Place place;
  std::array<StoreList, kUnitsPerLine> early, late;
  StoreList list;
  place.add_line(early, 0, 1);
  place.add_line(late, 0, 2);
  place.buffer.perform(late[4]);
  CHECK(place.holds(0, 2));
  place.buffer.perform(early[4]);
  CHECK(place.holds(0, 2));

  place.add_unit(list, 5, 6, 3);
  place.add_line(late, 5, 4);
  place.buffer.perform(late[0]);
  place.buffer.perform(list);
  CHECK(place.holds(5, 4));

  place.add_line(early, 9, 5);
  place.add_unit(list, 9, 2, 6);
  place.buffer.perform(list);
  place.buffer.perform(early[7]);
  CHECK(std::memcmp(place.unit(9, 2), &UnitBytes{6, 6, 6, 6}[0], kUnitBytes) == 0);
  CHECK(std::memcmp(place.unit(9, 3), &UnitBytes{5, 5, 5, 5}[0], kUnitBytes) == 0);
  CHECK(place.buffer.num_pending() == 0);
}

TEST_CASE("sim_store_buffer: weak stores never count as something to wait for") {
  Place place;
  StoreList list;
  const uint32_t value = 8;
  place.buffer.add(list, Kind::weak, place.unit(0, 0), &value, sizeof(value));
  CHECK(place.buffer.num_pending() == 1);
  CHECK(place.buffer.num_pending_arrivals() == 0);
  place.buffer.perform_any_arrival();
  CHECK(place.memory[0].units[0][0] == 0);
  place.buffer.perform_any();
  CHECK(place.memory[0].units[0][0] == 8);
  CHECK(place.arrivals.empty());
}

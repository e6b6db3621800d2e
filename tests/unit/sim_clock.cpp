// SPDX-License-Identifier: Apache-2.0
// Vector clocks as trees behave like plain vectors of epochs, and share what is equal.
#include "sim/clock.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

using namespace nccl_ep::sim::check;

namespace {

using Model = std::map<Slot, Epoch>;

void expect_same(const Clock& clock, const Model& model, const std::vector<Slot>& slots) {
  for (const Slot slot : slots) {
    const auto entry = model.find(slot);
    REQUIRE(clock.at(slot) == (entry != model.end() ? entry->second : 0));
  }
}

}  // namespace

TEST_CASE("random sets and joins of clocks match a map of epochs") {
  std::mt19937 random(5);
  std::vector<Slot> slots;
  for (int i = 0; i < 60; ++i) slots.push_back(random() % 3 == 0 ? random() % Clock::kMaxSlots : random() % 100);
  std::vector<Clock> clocks(8);
  std::vector<Model> models(8);
  ClockJoiner joiner;
  for (int step = 0; step < 20000; ++step) {
    const size_t a = random() % 8, b = random() % 8;
    if (random() % 2 == 0) {
      const Slot slot = slots[random() % slots.size()];
      const Epoch epoch = random() % 1000 + 1;
      clocks[a] = clocks[a].with(slot, epoch);
      models[a][slot] = std::max(models[a][slot], epoch);
    } else {
      clocks[a] = random() % 2 == 0 ? joiner.join(clocks[a], clocks[b]) : Clock::join(clocks[a], clocks[b]);
      for (const auto& [slot, epoch] : Model(models[b])) models[a][slot] = std::max(models[a][slot], epoch);
    }
    if (step % 100 == 0) expect_same(clocks[a], models[a], slots);
    if (random() % 500 == 0) clocks[a] = {}, models[a] = {};
  }
  for (size_t i = 0; i < 8; ++i) expect_same(clocks[i], models[i], slots);
}

TEST_CASE("a join in which one side knows everything is that side itself") {
  const Clock less = Clock().with(3, 1).with(5000, 2);
  const Clock more = less.with(3, 4).with(100000, 1);
  CHECK(Clock::join(less, more) == more);
  CHECK(Clock::join(more, less) == more);
  CHECK(more.with(3, 2) == more);
  CHECK(Clock::join(more, Clock()) == more);
}

// SPDX-License-Identifier: Apache-2.0
// The checker's agents, their slots in the clocks, and their names in reports. Internal to the checker.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "sim/checker.hpp"

namespace nccl_ep::sim::check {

// Who may see what a scoped access publishes.
struct Place {
  uint32_t rank = 0;
  Slot block = 0;  // the first slot of the agent's block
};

inline bool includes(Scope scope, Place from, Place to) {
  if (scope == Scope::system) return true;
  return from.rank == to.rank && (scope == Scope::gpu || from.block == to.block);
}

inline bool same_block(Place a, Place b) { return includes(Scope::block, a, b); }

struct Agent {
  Slot slot = 0;
  Epoch first_epoch = 0;  // earlier epochs of the slot belong to somebody before
  Epoch epoch = 0;        // of what it does now; counted up whenever something is published
  Place place;
  Knowledge knowledge;  // without itself

  bool did(Slot other, Epoch at) const { return other == slot && at >= first_epoch; }
};

// What one releasing access (or the ones of a block together) publishes at an address.
struct Message {
  Scope scope;
  Place author;
  Slot author_slot;
  Epoch author_epoch;  // 0: several authors
  Knowledge knowledge;
};

class Thread : public Agent {
 public:
  static constexpr int kNumScopes = 3;
  // What relaxed stores publish: the knowledge at the last fence of at least this scope.
  Knowledge fenced[kNumScopes];
  Epoch fence_epoch[kNumScopes] = {};  // 0: no such fence yet
  // Messages read by relaxed loads; a fence acquires them.
  std::vector<Message> unfenced_messages;
  // mbarriers this thread has initialised without the fence that shows them to bulk copies.
  std::vector<uintptr_t> unfenced_mbars;
};

class Operation : public Agent {
 public:
  // first_epoch stamps the reads, the next one the writes.
  Epoch read_epoch() const { return first_epoch; }
  Epoch write_epoch() const { return first_epoch + 1; }
  Checker::Proxy proxy = Checker::Proxy::generic;
  Pc pc = 0;
};

struct SlotRange {
  Slot first = 0;
  uint32_t count = 0;
  Epoch last_epoch = 0;  // the highest one used in the range
};

class Grid {
 public:
  GridName name;
  SlotRange slots;
  uint32_t slots_per_block = 0;
  std::vector<Thread> threads;  // num_blocks * num_threads
};

// What to tell who needs more slots than there are.
std::string too_many();

// Hands out slots. A slot is used again only by somebody who knows all that its last user did, so that
// knowing a slot's epoch always means knowing the earlier ones, and at the same place, so that it tells whose proxy a
// bulk copy went through.
class Slots {
 public:
  // Throws when there are no more.
  SlotRange take(Place place, uint32_t count, const Clock& known);
  void give_back(Place place, const SlotRange& range);
  bool has_room(uint32_t count) const { return num_slots_ + uint64_t{count} <= Clock::kMaxSlots; }

 private:
  struct Pool {
    std::deque<SlotRange> free;
  };
  std::map<std::tuple<uint32_t, Slot, uint32_t>, Pool> pools_;  // by rank, block and count
  Slot num_slots_ = 0;
};

// Remembers who used which slot when.
class Names {
 public:
  struct Issuer {
    uint32_t rank;
    Slot slot;
    Epoch epoch;  // 0: a stream
  };

  void add(const Grid& grid);
  void add(const Operation& operation, const char* what, const Issuer& issuer);
  std::string of(Slot slot, Epoch epoch) const;

 private:
  struct GridEntry {
    GridName name;
    SlotRange slots;
    Epoch first_epoch;
    uint32_t slots_per_block;
  };
  struct OperationEntry {
    Slot slot;
    Epoch first_epoch;
    const char* what;
    Issuer issuer;
  };
  static constexpr size_t kMaxGrids = 4096, kMaxOperations = 65536;  // older ones are forgotten

  std::deque<GridEntry> grids_;
  std::deque<OperationEntry> operations_;
};

}  // namespace nccl_ep::sim::check

// SPDX-License-Identifier: Apache-2.0
// What the checker remembers of each four bytes of tracked memory: the last write and two of the last reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/clock.hpp"

namespace nccl_ep::sim::check {

// Accesses that may meet without order. Atomics may if each one's scope includes the other's thread, units
// always.
enum class Kind : uint8_t { plain, unit, atomic_block, atomic_gpu, atomic_system };

struct Access {
  uint64_t pc : 48 = 0;
  uint64_t bytes_mask : 4 = 0;  // which of the four bytes
  uint64_t kind : 3 = 0;
  uint64_t async : 1 = 0;  // by a bulk copy
  Slot slot = 0;
  Epoch epoch = 0;  // 0: there was none

  Kind as_kind() const { return static_cast<Kind>(kind); }
};

struct Cell {
  static constexpr size_t kBytes = 4;

  Access write;
  Access reads[2];
};

// Shadow memory of a few large regions. Its pages exist only where something was accessed.
class Shadow {
 public:
  Shadow() = default;
  ~Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  void add(uintptr_t begin, size_t bytes);
  void clear(uintptr_t begin, size_t bytes);

  // The cell of `address`; null outside the regions. The cells of what follows in the region follow it;
  // `bytes` is cut to what lies inside.
  Cell* find(uintptr_t address, size_t& bytes) {
    if (address - last_.begin >= last_.bytes && !select(address)) return nullptr;
    const size_t offset = address - last_.begin;
    if (bytes > last_.bytes - offset) bytes = last_.bytes - offset;
    return last_.cells + offset / Cell::kBytes;
  }

 private:
  struct Region {
    uintptr_t begin = 0;
    size_t bytes = 0;
    Cell* cells = nullptr;

    size_t shadow_bytes() const { return bytes / Cell::kBytes * sizeof(Cell); }
  };

  bool select(uintptr_t address);

  std::vector<Region> regions_;  // sorted by address
  Region last_;                  // the one found last
};

}  // namespace nccl_ep::sim::check

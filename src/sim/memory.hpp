// SPDX-License-Identifier: Apache-2.0
// The memory of the simulated GPUs: an arena for each rank, all the same size and one after the other, then the
// shared memory of the blocks. One range of addresses holds it all, so whose an address is takes a subtraction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nccl_ep_sim.h"
#include "sim/checker.hpp"

namespace nccl_ep::sim {

// What fresh memory holds, of a GPU or shared by a block: it is not zero.
constexpr uint8_t kGarbage = 0xcb;

// How much an allocation takes. Its end may lie in the host: then it takes nothing of the GPU's memory.
struct MemoryBytes {
  size_t on_gpu = 0;
  size_t in_host = 0;
  size_t total() const { return on_gpu + in_host; }
};

class Memory {
 public:
  // Allocations of the two zones never influence one another, so ranks that make the same symmetric allocations find
  // them at the same offset.
  enum class Zone { symmetric, ordinary };

  // `checker` may be null.
  Memory(const ncclEpSimConfig_t& config, check::Checker* checker);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Aligned to 4096 bytes (symmetric) or 256 (ordinary). Throws when the rank's memory is used up.
  void* allocate(uint32_t rank, MemoryBytes bytes, Zone zone);
  void release(uint32_t rank, void* memory);
  // The allocation that holds [begin, begin + bytes) completely; null if there is none.
  void* find_allocation(uint32_t rank, const void* begin, size_t bytes) const;

  // Whether these bytes lie in allocations; `begin` is in an arena. Kernels ask this at every access.
  bool is_allocated(const void* begin, size_t bytes) const {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(begin) - begin_;
    const size_t end = offset % kGranule + bytes;
    if (static_cast<ptrdiff_t>(end) <= granules_[offset / kGranule]) [[likely]] {
      return true;
    }
    return end > kGranule && is_covered(offset, bytes, false);
  }
  // The same, or whether they did so before they were released: other ranks have windows mapped for as long as they like.
  bool was_allocated(const void* begin, size_t bytes) const {
    return is_covered(reinterpret_cast<uintptr_t>(begin) - begin_, bytes, true);
  }
  // release() leaves memory to the kernels that are under way, as cudaFree waits for them. This takes it from later ones.
  void withdraw_released(uint32_t rank);
  bool has_released(uint32_t rank) const { return !arenas_[rank].released.empty(); }
  // Whether an address in an arena is where windows may be, which other ranks reach.
  bool is_symmetric(const void* address) const {
    return (reinterpret_cast<uintptr_t>(address) - begin_) % stride() < memory_bytes_;
  }

  // Memory of the host that a rank's kernels may use as well, until it is unpinned.
  void pin(uint32_t rank, const void* memory, size_t bytes);
  void unpin(uint32_t rank, const void* memory);
  bool is_pinned(uint32_t rank, const void* begin, size_t bytes) const;

  // From an address in rank r's arena to the same place in rank r + 1's.
  uint64_t stride() const { return uint64_t{1} << stride_shift_; }

  static constexpr uint32_t kNobody = ~0u;
  // The rank in whose arena an address lies, or kNobody.
  uint32_t owner(const void* address) const {
    const uint64_t rank = (reinterpret_cast<uintptr_t>(address) - begin_) >> stride_shift_;
    return rank < num_ranks_ ? static_cast<uint32_t>(rank) : kNobody;
  }
  bool is_shared(const void* address) const {
    return reinterpret_cast<uintptr_t>(address) - shared_begin() < shared_bytes_;
  }
  uintptr_t begin() const { return begin_; }
  uintptr_t arenas_bytes() const { return uintptr_t{num_ranks_} << stride_shift_; }
  uintptr_t bytes() const { return arenas_bytes() + shared_bytes_; }

  static constexpr size_t kMaxStaticShared = 48 * 1024;  // of a block, as on a GPU

  // Shared memory of the blocks: `shared_slots` of these on each rank.
  std::byte* shared_slot(uint32_t rank, uint32_t slot) const;
  uint64_t shared_slot_bytes() const { return shared_slot_bytes_; }
  uint32_t num_shared_slots() const { return num_shared_slots_; }

  // "rank 2 memory + 0x40", "rank 0 shared memory 3 + 0x100", "address 0x7f0012345678 (memory of the host)".
  std::string describe(uintptr_t address) const;

 private:
  struct Arena {
    struct Allocation {
      MemoryBytes bytes;
      Zone zone;
    };
    std::map<uintptr_t, Allocation> allocations;
    std::map<uintptr_t, size_t> released;  // bytes at addresses that kernels under way may still use
    std::map<uintptr_t, size_t> pinned;    // bytes at addresses of the host
    uintptr_t used_end[2];                 // of each zone: nothing behind it was ever allocated
    size_t allocated_bytes = 0;            // of the GPU's memory
  };

  uintptr_t shared_begin() const { return begin_ + arenas_bytes(); }
  size_t granule_bytes() const { return (arenas_bytes() / kGranule + 1) * sizeof(int16_t); }  // the last is nobody's
  uintptr_t zone_begin(uint32_t rank, Zone zone) const;
  bool is_covered(uintptr_t offset, size_t bytes, bool or_was) const;
  void mark(uintptr_t begin, size_t bytes, int16_t sign);
  uintptr_t find_room(const Arena& arena, uint32_t rank, size_t bytes, Zone zone) const;

  static constexpr size_t kGranule = 256;  // allocations begin at multiples of it

  uint32_t num_ranks_;
  uint64_t memory_bytes_;  // of each rank
  uint32_t stride_shift_;
  uint64_t shared_slot_bytes_;
  uint32_t num_shared_slots_;
  uint64_t shared_bytes_;
  uintptr_t begin_;
  // Of each granule of the arenas, how many bytes from its beginning are allocated. Negative: were, before they were
  // released.
  int16_t* granules_;
  check::Checker* checker_;
  std::vector<Arena> arenas_;
};

}  // namespace nccl_ep::sim

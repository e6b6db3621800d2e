// SPDX-License-Identifier: Apache-2.0
#include "sim/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "runtime/error.hpp"
#include "shared/types.hpp"
#include "sim/config.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace nccl_ep::sim {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSharedPadding = 16 * 1024;  // between the static arrays of a block
constexpr uint32_t kSharedSlotsPerSm = 32;
constexpr size_t kGarbageBytes = size_t{1} << 20;  // filling more would cost more than it finds

#if defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kRedzone = 256;
void poison(uintptr_t begin, size_t bytes) { __asan_poison_memory_region(reinterpret_cast<void*>(begin), bytes); }
void unpoison(uintptr_t begin, size_t bytes) { __asan_unpoison_memory_region(reinterpret_cast<void*>(begin), bytes); }
#else
constexpr uint64_t kRedzone = 0;
void poison(uintptr_t, size_t) {}
void unpoison(uintptr_t, size_t) {}
#endif

// Address space, of which only what is touched is really used.
void* reserve(size_t bytes, int protection, const ncclEpSimConfig_t& config) {
  void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory != MAP_FAILED) return memory;
  throw Error(ncclSystemError, "cannot reserve " + std::to_string(bytes) + " bytes of address space for " +
                                   std::to_string(topology_of(config).num_ranks()) +
                                   " simulated GPUs; ncclEpSimConfig_t.memory_bytes is " +
                                   std::to_string(config.memory_bytes));
}

bool is_mapped(uintptr_t address) {
  unsigned char is_resident;
  return mincore(reinterpret_cast<void*>(address / kPage * kPage), 1, &is_resident) == 0;
}

uint64_t alignment_of(Memory::Zone zone) { return zone == Memory::Zone::symmetric ? kPage : 256; }

std::string hex(uint64_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  do {
    text.insert(text.begin(), kDigits[value % 16]);
    value /= 16;
  } while (value != 0);
  return "0x" + text;
}

}  // namespace

Memory::Memory(const ncclEpSimConfig_t& config, check::Checker* checker)
    : num_ranks_(topology_of(config).num_ranks()),
      memory_bytes_(align_up(config.memory_bytes, kPage)),
      checker_(checker) {
  stride_shift_ = static_cast<uint32_t>(std::bit_width(2 * memory_bytes_ - 1));
  shared_slot_bytes_ = align_up(config.max_shared_bytes + kMaxStaticShared + kSharedPadding, kPage);
  num_shared_slots_ = config.sms_per_gpu * kSharedSlotsPerSm;
  shared_bytes_ = uint64_t{num_ranks_} * num_shared_slots_ * shared_slot_bytes_;

  // Memory that was never allocated stays inaccessible, so that wild accesses end as faults.
  begin_ = reinterpret_cast<uintptr_t>(reserve(bytes(), PROT_NONE, config));
  granules_ = static_cast<int16_t*>(reserve(granule_bytes(), PROT_READ | PROT_WRITE, config));
  mprotect(reinterpret_cast<void*>(shared_begin()), shared_bytes_, PROT_READ | PROT_WRITE);

  arenas_.resize(num_ranks_);
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    for (Zone zone : {Zone::symmetric, Zone::ordinary}) {
      arenas_[rank].used_end[static_cast<int>(zone)] = zone_begin(rank, zone);
    }
    if (checker_ != nullptr) {
      checker_->track(reinterpret_cast<void*>(zone_begin(rank, Zone::symmetric)), 2 * memory_bytes_);
    }
  }
  if (checker_ != nullptr) checker_->track(reinterpret_cast<void*>(shared_begin()), shared_bytes_);
}

Memory::~Memory() {
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    for (Zone zone : {Zone::symmetric, Zone::ordinary}) {
      const uintptr_t begin = zone_begin(rank, zone);
      unpoison(begin, arenas_[rank].used_end[static_cast<int>(zone)] - begin);
    }
  }
  unpoison(shared_begin(), shared_bytes_);  // of blocks that never ended
  munmap(reinterpret_cast<void*>(begin_), bytes());
  munmap(granules_, granule_bytes());
}

uintptr_t Memory::zone_begin(uint32_t rank, Zone zone) const {
  return begin_ + (uintptr_t{rank} << stride_shift_) + (zone == Zone::symmetric ? 0 : memory_bytes_);
}

// The lowest gap that is wide enough.
uintptr_t Memory::find_room(const Arena& arena, uint32_t rank, size_t bytes, Zone zone) const {
  const uintptr_t begin = zone_begin(rank, zone), end = begin + memory_bytes_;
  uintptr_t candidate = begin;
  for (auto next = arena.allocations.lower_bound(begin); next != arena.allocations.end(); ++next) {
    if (next->first >= end || candidate + bytes + kRedzone <= next->first) break;
    candidate = align_up(next->first + next->second.bytes.total() + kRedzone, alignment_of(zone));
  }
  return candidate + bytes + kRedzone <= end ? candidate : 0;
}

void* Memory::allocate(uint32_t rank, MemoryBytes wanted, Zone zone) {
  Arena& arena = arenas_[rank];
  if (wanted.total() == 0) wanted.on_gpu = 1;
  const size_t bytes = wanted.total();
  const bool fits = wanted.on_gpu <= memory_bytes_ - arena.allocated_bytes && bytes <= memory_bytes_;
  const uintptr_t begin = fits ? find_room(arena, rank, bytes, zone) : 0;
  if (begin == 0) {
    throw Error(ncclSystemError, "rank " + std::to_string(rank) + " cannot allocate " + std::to_string(wanted.on_gpu) +
                                     " bytes of device memory" +
                                     (wanted.in_host ? " and behind them " + std::to_string(wanted.in_host) : "") +
                                     "; " + std::to_string(arena.allocated_bytes) + " of " +
                                     std::to_string(memory_bytes_) + " (ncclEpSimConfig_t.memory_bytes) are in use");
  }
  uintptr_t& used_end = arena.used_end[static_cast<int>(zone)];
  const uintptr_t needed_end = align_up(begin + bytes, kPage);
  if (needed_end > used_end) {
    mprotect(reinterpret_cast<void*>(used_end), needed_end - used_end, PROT_READ | PROT_WRITE);
    poison(used_end, needed_end - used_end);
    used_end = needed_end;
  }
  arena.allocations[begin] = {wanted, zone};
  arena.allocated_bytes += wanted.on_gpu;
  unpoison(begin, bytes);
  mark(begin, bytes, 1);
  void* memory = reinterpret_cast<void*>(begin);
  if (checker_ != nullptr) checker_->forget(memory, bytes);
  std::memset(memory, kGarbage, std::min(bytes, kGarbageBytes));
  return memory;
}

void Memory::mark(uintptr_t begin, size_t bytes, int16_t sign) {
  int16_t* granule = granules_ + (begin - begin_) / kGranule;
  granule = std::fill_n(granule, bytes / kGranule, static_cast<int16_t>(sign * static_cast<int16_t>(kGranule)));
  if (bytes % kGranule == 0) return;
  const auto rest = static_cast<int16_t>(bytes % kGranule);
  *granule = sign > 0 ? std::max(*granule, rest) : static_cast<int16_t>(-rest);  // more of it may be in use until later
}

bool Memory::is_covered(uintptr_t offset, size_t bytes, bool or_was) const {
  for (const uintptr_t end = offset + bytes; offset < end; offset += kGranule - offset % kGranule) {
    const size_t needed = std::min(end - offset + offset % kGranule, kGranule);
    const int16_t granule = granules_[offset / kGranule];
    if (static_cast<ptrdiff_t>(needed) > (or_was ? std::abs(granule) : granule)) return false;
  }
  return true;
}

void Memory::withdraw_released(uint32_t rank) {
  Arena& arena = arenas_[rank];
  for (const auto& [begin, bytes] : arena.released) {
    mark(begin, bytes, -1);
    if (!is_symmetric(reinterpret_cast<const void*>(begin))) poison(begin, bytes);  // windows stay mapped
    // What has been given out again is somebody's.
    auto other = arena.allocations.upper_bound(begin);
    if (other != arena.allocations.begin()) --other;
    for (; other != arena.allocations.end() && other->first < begin + bytes; ++other) {
      mark(other->first, other->second.bytes.total(), 1);
      unpoison(other->first, other->second.bytes.total());
    }
  }
  arena.released.clear();
}

void Memory::pin(uint32_t rank, const void* memory, size_t bytes) {
  arenas_[rank].pinned[reinterpret_cast<uintptr_t>(memory)] = bytes;
}

void Memory::unpin(uint32_t rank, const void* memory) {
  arenas_[rank].pinned.erase(reinterpret_cast<uintptr_t>(memory));
}

bool Memory::is_pinned(uint32_t rank, const void* begin, size_t bytes) const {
  const auto& pinned = arenas_[rank].pinned;
  const auto address = reinterpret_cast<uintptr_t>(begin);
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  const auto& [first, size] = *--after;
  return address - first <= size && bytes <= size - (address - first);
}

void Memory::release(uint32_t rank, void* memory) {
  if (memory == nullptr) return;
  Arena& arena = arenas_[rank];
  const auto allocation = arena.allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (allocation == arena.allocations.end()) {
    throw Error(ncclInvalidArgument, describe(reinterpret_cast<uintptr_t>(memory)) +
                                         " is not the beginning of an allocation of rank " + std::to_string(rank));
  }
  size_t& released = arena.released[allocation->first];
  released = std::max(released, allocation->second.bytes.total());
  arena.allocated_bytes -= allocation->second.bytes.on_gpu;
  arena.allocations.erase(allocation);
}

void* Memory::find_allocation(uint32_t rank, const void* begin, size_t bytes) const {
  const Arena& arena = arenas_[rank];
  const auto address = reinterpret_cast<uintptr_t>(begin);
  auto after = arena.allocations.upper_bound(address);
  if (after == arena.allocations.begin()) return nullptr;
  const auto& [first, allocation] = *--after;
  const size_t total = allocation.bytes.total();
  const bool holds = address - first <= total && bytes <= total - (address - first);
  return holds ? reinterpret_cast<void*>(first) : nullptr;
}

std::byte* Memory::shared_slot(uint32_t rank, uint32_t slot) const {
  const uint64_t index = uint64_t{rank} * num_shared_slots_ + slot;
  return reinterpret_cast<std::byte*>(shared_begin() + index * shared_slot_bytes_);
}

std::string Memory::describe(uintptr_t address) const {
  const void* p = reinterpret_cast<const void*>(address);
  if (is_shared(p)) {
    const uint64_t offset = address - shared_begin(), slot = offset / shared_slot_bytes_;
    return "rank " + std::to_string(slot / num_shared_slots_) + " shared memory " +
           std::to_string(slot % num_shared_slots_) + " + " + hex(offset % shared_slot_bytes_);
  }
  const uint32_t rank = owner(p);
  if (rank == kNobody) return "address " + hex(address) + (is_mapped(address) ? " (memory of the host)" : "");
  const std::string where =
      "rank " + std::to_string(rank) + " memory + " + hex(address - zone_begin(rank, Zone::symmetric));
  const auto& allocations = arenas_[rank].allocations;
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return where + " (not allocated)";
  const auto& [first, allocation] = *--after;
  const char* kind = allocation.zone == Zone::symmetric ? "symmetric" : "ordinary";
  const size_t total = allocation.bytes.total();
  if (address - first >= total) {
    return where + " (not allocated, " + std::to_string(address - first - total) + " bytes behind " +
           std::to_string(total) + " " + kind + " ones)";
  }
  return where + " (" + hex(address - first) + " in " + std::to_string(total) + " bytes of " + kind + " memory)";
}

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// Static and dynamic shared memory of the running block.
#include <atomic>
#include <cstring>

#include "sim/caller.hpp"
#include "sim/executor_state.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace nccl_ep::sim::device {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kRedzone = 64;
#else
constexpr size_t kRedzone = 0;
#endif

void check_shared_limits(ExecutorState& sim, const Block& block, check::Pc pc) {
  const size_t dynamic_bytes = block.grid->shared_bytes, limit = sim.config.max_shared_bytes;
  if (block.static_shared_bytes <= Memory::kMaxStaticShared && dynamic_bytes + block.static_shared_bytes <= limit)
    return;
  sim.fail_thread(pc, [&] {
    return "the block has " + std::to_string(block.static_shared_bytes) + " bytes of static shared memory (at most " +
           std::to_string(Memory::kMaxStaticShared) + ") and " + std::to_string(dynamic_bytes) +
           " of dynamic; together at most " + std::to_string(limit) + " are allowed";
  });
}

// Behind what is in use, at an address that is a multiple of `alignment` and of no more, so that nothing relies on an
// alignment that was not asked for.
std::byte* place_shared_array(ExecutorState& sim, Block& block, size_t bytes, size_t alignment, check::Pc pc) {
  block.static_shared_bytes = align_up(block.static_shared_bytes, alignment) + bytes;
  check_shared_limits(sim, block, pc);
  size_t offset = align_up(block.shared_used + kRedzone, alignment);
  if (offset % (2 * alignment) == 0) offset += alignment;
  block.shared_used = offset + bytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(block.shared + offset, bytes);
#endif
  std::memset(block.shared + offset, kGarbage, bytes);
  return block.shared + offset;
}

}  // namespace

uint32_t new_shared_array_id() {
  static std::atomic<uint32_t> num_ids = 0;
  return num_ids++;
}

void* shared_array(uint32_t id, size_t bytes, size_t alignment) {
  ExecutorState& sim = *running_state;
  Block& block = *sim.current->warp->block;
  for (const SharedArray& array : block.shared_arrays) {
    if (array.id == id) return array.memory;
  }
  block.shared_arrays.push_back({id, place_shared_array(sim, block, bytes, alignment, EP_CALLER)});
  return block.shared_arrays.back().memory;
}

unsigned char* dynamic_shared() {
  return reinterpret_cast<unsigned char*>(running_state->current->warp->block->shared);
}

}  // namespace nccl_ep::sim::device

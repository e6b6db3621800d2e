// SPDX-License-Identifier: Apache-2.0
// What every access of a kernel must respect. Internal to the device primitives.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sim/executor_state.hpp"

namespace nccl_ep::sim {

[[noreturn]] void fail_misaligned(ExecutorState& sim, const void* p, uint32_t bytes, check::Pc pc);
[[noreturn]] void fail_unallocated(ExecutorState& sim, const void* p, size_t bytes, check::Pc pc);
// An access to other memory than that of the thread's rank.
void check_foreign_access(ExecutorState& sim, const void* p, size_t bytes, uint32_t owner, check::Pc pc);

// A kernel's own access to what is neither device nor shared memory nor its stack: to its arguments, to constants and
// variables of the code, to pinned memory. Anything else is the host's.
void check_elsewhere(ExecutorState& sim, const void* p, size_t bytes, check::Pc pc);

// Whose memory a thread may use: its rank's own, windows of the LSA team, and host memory that its rank has pinned.
// Returns whose it is if it is another rank's, else Memory::kNobody.
inline uint32_t check_memory(ExecutorState& sim, const void* p, size_t bytes, check::Pc pc) {
  const uint32_t owner = sim.memory.owner(p);
  if (owner == sim.current->warp->block->grid->rank) [[likely]] {
    if (!sim.memory.is_allocated(p, bytes)) fail_unallocated(sim, p, bytes, pc);
    return Memory::kNobody;
  }
  check_foreign_access(sim, p, bytes, owner, pc);
  return owner;
}

inline uint32_t check_access(ExecutorState& sim, const void* p, uint32_t bytes, check::Pc pc) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) [[unlikely]] {
    fail_misaligned(sim, p, bytes, pc);
  }
  return check_memory(sim, p, bytes, pc);
}

// Scopes beyond the block exist for global memory alone.
void check_scope(ExecutorState& sim, const void* p, dev::Scope scope, check::Pc pc);

}  // namespace nccl_ep::sim

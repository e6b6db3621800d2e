// SPDX-License-Identifier: Apache-2.0
// What every access of a kernel must respect. Internal to the device primitives.
#pragma once

#include <cstdint>

#include "sim/executor_state.hpp"

namespace nccl_ep::sim {

[[noreturn]] void fail_misaligned(ExecutorState& sim, const void* p, uint32_t bytes, check::Pc pc);
// An access to other memory than that of the thread's rank.
void check_foreign_access(ExecutorState& sim, const void* p, uint32_t owner, check::Pc pc);

// Returns whose memory it is if it is another rank's, else Memory::kNobody.
inline uint32_t check_access(ExecutorState& sim, const void* p, uint32_t bytes, check::Pc pc) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) [[unlikely]] {
    fail_misaligned(sim, p, bytes, pc);
  }
  const uint32_t owner = sim.memory.owner(p);
  if (owner == sim.current->warp->block->grid->rank) [[likely]] {
    return Memory::kNobody;
  }
  check_foreign_access(sim, p, owner, pc);
  return owner;
}

// Scopes beyond the block exist for global memory alone.
void check_scope(ExecutorState& sim, const void* p, dev::Scope scope, check::Pc pc);

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// Ranks that make a group together: what each checks by itself, what all must agree on, and how one that fails stops the
// others before they wait for it.
#pragma once

#include <cstdint>
#include <exception>

#include "nccl_ep.h"
#include "runtime/runtime.hpp"

namespace nccl_ep::core {

// What a configuration must be by itself, with either algorithm.
void check_config(const ncclEpGroupConfig_t& config, runtime::Communicator& comm);

// Collective: throws on every rank if any rank has failed, there the failure itself.
void agree(runtime::Communicator& comm, std::exception_ptr failure);
// The same, and if the configurations differ.
void agree(runtime::Communicator& comm, const ncclEpGroupConfig_t& config, std::exception_ptr failure);

// What `work` throws, if it does.
template <class Work>
std::exception_ptr failure_of(Work work) noexcept {
  try {
    work();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

}  // namespace nccl_ep::core

// SPDX-License-Identifier: Apache-2.0
// Compiling every variant ahead of time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "jit/build.hpp"

namespace nccl_ep::jit {

struct WarmKernel {
  std::string name;
  std::string arch;
  std::string file;
  size_t bytes;
  bool was_cached;
  size_t index;
  size_t count;
};

// "sm_90a,sm_100a" → {"sm_90a", "sm_100a"}. Throws Error(ncclInvalidArgument) for anything else.
std::vector<std::string> parse_archs(const std::string& list);

// Builds all variants of some groups for all architectures side by side; `done` is called in this thread, in order.
// Throws Error(ncclSystemError) where they cannot be kept, unless they are dumped instead.
void warm_up(const std::vector<std::string>& archs, Groups groups, const std::function<void(const WarmKernel&)>& done);

}  // namespace nccl_ep::jit

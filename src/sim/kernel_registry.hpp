// SPDX-License-Identifier: Apache-2.0
// The kernels that are compiled into this process, by name. EP_SIM_KERNEL in device/sim.hpp adds them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "device/sim.hpp"

namespace nccl_ep::sim {

struct KernelEntry {
  std::string name;
  KernelFunction function = nullptr;
  size_t args_bytes = 0;
};

// Null if there is none. The entry stays where it is; a later registration under the same name replaces its contents.
const KernelEntry* find_kernel(std::string_view name);

}  // namespace nccl_ep::sim

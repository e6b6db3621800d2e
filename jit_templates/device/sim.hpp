// SPDX-License-Identifier: Apache-2.0
// The device primitives on the simulated GPU cluster. device.hpp has the contract.
//
// Kernels for it may live in any shared library: what they call is exported by libnccl_ep_sim.so.
#pragma once

#include <cstddef>

#include "shared/types.hpp"

#define EP_SIM_EXPORT __attribute__((visibility("default")))

namespace nccl_ep::sim {

using KernelFunction = void (*)(const void* args);

// Returns true, so that it can initialise a variable.
EP_SIM_EXPORT bool register_kernel(const char* name, KernelFunction function, size_t args_bytes);

}  // namespace nccl_ep::sim

// Makes `void function(const Args&)` a kernel that can be launched by its name. A later one replaces an earlier one.
#define EP_SIM_KERNEL(name, function, Args) EP_SIM_KERNEL_NUMBERED(name, function, Args, __COUNTER__)
#define EP_SIM_KERNEL_NUMBERED(name, function, Args, number) EP_SIM_KERNEL_NAMED(name, function, Args, number)
#define EP_SIM_KERNEL_NAMED(name, function, Args, number)                          \
  [[maybe_unused]] static const bool ep_sim_kernel_##number =                      \
      ::nccl_ep::sim::register_kernel(                                             \
          name, [](const void* args) { (function)(*static_cast<const Args*>(args)); }, sizeof(Args));

// SPDX-License-Identifier: Apache-2.0
// Kernels that use the simulated network, for sim_network.cpp.
#pragma once

#include <cstdint>

#include "device/gin.hpp"
#include "runtime/nccl_types.hpp"

namespace nccl_ep::sim::test {

constexpr uint32_t kWords = 64;

struct GinArgs {
  GinComm comm;
  ncclWindow_t window;
  uint32_t* memory;  // this rank's window: 2 * kWords to send, 2 * kWords that arrive, and a signal
  uint32_t* out;
  uint32_t variant;
};

enum Variant : uint32_t { kStrong, kWeak, kVaSignal, kTwoContexts };
// Whether a thread that signals knows of the puts that another one has made.
enum Handover : uint32_t { kOrdered, kRelaxed };

}  // namespace nccl_ep::sim::test

// SPDX-License-Identifier: Apache-2.0
// Meetings of the lanes of a warp. Internal to the device primitives.
#pragma once

#include <cstdint>

#include "sim/executor_state.hpp"

namespace nccl_ep::sim {

// The current thread brings value and argument. Returns when all have come and the results are there.
WarpMeeting& meet(ExecutorState& sim, device::Meeting what, uint64_t value, uint32_t argument, check::Pc pc);

// The meeting of a line access: its lines are loaded or stored.
void access_lines(ExecutorState& sim, Warp& warp);

}  // namespace nccl_ep::sim

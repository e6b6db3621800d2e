// SPDX-License-Identifier: Apache-2.0
// NCCL's side of the seam.
#pragma once

#include <memory>

#include "runtime/runtime.hpp"

namespace nccl_ep::runtime::cuda {

// Throws Error when NCCL or the driver is missing or too old, or when the communicator's ranks cannot reach
// one another's memory.
std::unique_ptr<Communicator> open_communicator(ncclComm_t comm);

}  // namespace nccl_ep::runtime::cuda

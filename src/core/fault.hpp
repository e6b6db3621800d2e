// SPDX-License-Identifier: Apache-2.0
// A kernel's fault record in words.
#pragma once

#include <string>

#include "shared/waits.hpp"

namespace nccl_ep::core {

std::string describe(const FaultRecord& fault, uint64_t timeout_ns);

}  // namespace nccl_ep::core

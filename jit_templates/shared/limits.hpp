// SPDX-License-Identifier: Apache-2.0
// What kernels have room for.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

constexpr uint32_t kMaxRanks = 1024;  // of a group
constexpr uint32_t kMaxTopk = 64;     // experts of a token

}  // namespace nccl_ep

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace nccl_ep::runtime {

// What a process can address: no memory is larger.
constexpr uint64_t kAddressableBytes = uint64_t{1} << 47;

}  // namespace nccl_ep::runtime

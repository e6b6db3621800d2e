// SPDX-License-Identifier: Apache-2.0
// What host and device both know of quantized rows.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

// Elements of a row that share a scale where the library quantizes (DS_FP8E3M4): E4M3 rows, float32 scales.
constexpr uint32_t kScaleGroup = 128;

// The same of NVFP4.
constexpr uint32_t kNvfp4Group = 16;

}  // namespace nccl_ep

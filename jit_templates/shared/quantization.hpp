// SPDX-License-Identifier: Apache-2.0
// What host and device both know of quantized rows.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep {

// Elements of a row that share a scale where the library quantizes (DS_FP8E3M4): E4M3 rows, float32 scales.
constexpr uint32_t kScaleGroup = 128;

// The same of NVFP4.
constexpr uint32_t kNvfp4Group = 16;

// Rows of High-Throughput combine that travel as E4M3 numbers have the scales of sixteen groups in front of their numbers. That
// is a block; a row's last one may have fewer groups. Scales have a line of memory, which they half fill: so blocks are whole
// lines, which is how bulk copies are fast. So many bytes are so many elements that begin a block.
constexpr uint32_t kQuantizedBlock = 16 * kScaleGroup;
constexpr uint32_t kBlockScaleBytes = 128;
EP_HOST_DEVICE constexpr uint32_t quantized_bytes(uint32_t num_elements) {
  return num_elements + (num_elements + kQuantizedBlock - 1) / kQuantizedBlock * kBlockScaleBytes;
}

}  // namespace nccl_ep

// SPDX-License-Identifier: Apache-2.0
// What arrives as one: a unit, and the units of a line.
#pragma once

#include <cstdint>

namespace nccl_ep::sim {

constexpr uint32_t kUnitBytes = 16;
constexpr uint32_t kUnitsPerLine = 8;
constexpr uint32_t kLineBytes = kUnitsPerLine * kUnitBytes;

}  // namespace nccl_ep::sim

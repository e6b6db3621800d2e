// SPDX-License-Identifier: Apache-2.0
// The elements of a row as floats, a 4-byte word at a time.
#pragma once

#include "device/device.hpp"
#include "shared/group_state.hpp"

namespace nccl_ep {

struct alignas(16) Pack {
  uint32_t word[4];
};

template <DType kDType>
struct WordOf {
  static constexpr int kSize = kDType == DType::fp32 ? 1 : 2;  // elements

  EP_DEVICE static void unpack(uint32_t word, float (&value)[kSize]) {
    if constexpr (kDType == DType::fp32) {
      value[0] = dev::float_from_bits(word);
    } else {
      value[0] = from_half(static_cast<uint16_t>(word));
      value[1] = from_half(static_cast<uint16_t>(word >> 16));
    }
  }
  EP_DEVICE static uint32_t pack(const float (&value)[kSize]) {
    if constexpr (kDType == DType::fp32) {
      return dev::bits_from_float(value[0]);
    } else {
      return to_half(value[0]) | to_half(value[1]) << 16;
    }
  }

 private:
  EP_DEVICE static float from_half(uint16_t bits) {
    if constexpr (kDType == DType::bf16) return dev::float_from_bf16(bits);
    return dev::float_from_fp16(bits);
  }
  EP_DEVICE static uint32_t to_half(float value) {
    if constexpr (kDType == DType::bf16) return dev::bf16_from_float(value);
    return dev::fp16_from_float(value);
  }
};

}  // namespace nccl_ep

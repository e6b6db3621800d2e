// SPDX-License-Identifier: Apache-2.0
// Sixteen bytes of a row, and their elements as floats.
#pragma once

#include "device/device.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep {

struct alignas(16) Pack {
  uint32_t word[4];
};

template <DType kDType>
struct PackOf {
  static constexpr int kSize = kDType == DType::fp32 ? 4 : 8;

  EP_DEVICE static float from_bits(uint16_t bits) {
    return kDType == DType::bf16 ? dev::float_from_bf16(bits) : dev::float_from_fp16(bits);
  }
  EP_DEVICE static uint32_t to_bits(float value) {
    return kDType == DType::bf16 ? dev::bf16_from_float(value) : dev::fp16_from_float(value);
  }

  EP_DEVICE static void unpack(const Pack& pack, float (&value)[kSize]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kDType == DType::fp32) {
        value[i] = dev::float_from_bits(pack.word[i]);
      } else {
        value[2 * i] = from_bits(static_cast<uint16_t>(pack.word[i]));
        value[2 * i + 1] = from_bits(static_cast<uint16_t>(pack.word[i] >> 16));
      }
    }
  }

  EP_DEVICE static Pack pack(const float (&value)[kSize]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kDType == DType::fp32) {
        pack.word[i] = dev::bits_from_float(value[i]);
      } else {
        pack.word[i] = to_bits(value[2 * i]) | to_bits(value[2 * i + 1]) << 16;
      }
    }
    return pack;
  }
};

}  // namespace nccl_ep

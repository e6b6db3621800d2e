// SPDX-License-Identifier: Apache-2.0
// NVFP4: E2M1 numbers, an E4M3 scale for each 16 of them, and a float32 scale for all of the row:
// element = number x scale / global scale.
//
// A global scale g says that no magnitude of its row is above R = 2688 / g; 2688 is 6 x 448, the largest number times the
// largest scale. What is larger becomes R. A scale is the largest magnitude of its elements x g / 6. If one of them is not
// finite the scale is NaN, and so is every product with it.
//
// The error of an element x is at most |x| / 5, or a / 22, or R / 450,000, whichever is most; a is the largest magnitude of
// the elements that share its scale:
//   |x| / 5      half of the distance between two numbers, from one on;
//   a / 22       the same below: a quarter of the scale, a / 6, which E4M3 may have rounded up by a sixteenth;
//   R / 450,000  where E4M3 rounds scales by more than that, since they are less than its least normal number.
#pragma once

#include "device/numeric.hpp"
#include "shared/quantization.hpp"

namespace nccl_ep {

// 1 / a global scale. 0, which is given with rows of zeros, has none: R is 0.
EP_DEVICE float inverse_of_global_scale(float scale) { return scale == 0 ? 0 : dev::reciprocal(scale); }

// What a row's elements are multiplied by, there and back. The largest global scale is 1e35, so that nothing overflows: R is
// 2.7e-32 at least.
struct GlobalScale {
  float scale, inverse;

  EP_DEVICE static GlobalScale of_inverse(float inverse) {
    constexpr float kLeast = 1e-35f;
    if (inverse < kLeast) inverse = kLeast;
    return {dev::reciprocal(inverse), inverse};
  }
};

// Of two groups of elements.
struct Nvfp4Scales {
  uint32_t bits;     // two E4M3 numbers
  float inverse[2];  // what the groups' elements are multiplied by

  // From their largest magnitudes, which are the bits of floats.
  EP_DEVICE static Nvfp4Scales of(const uint32_t (&magnitude)[2], float global_scale) {
    constexpr uint32_t kInfinity = 0x7f800000, kNan = 0x7fffffff;
    float scale[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      scale[i] = dev::mul(dev::mul(dev::float_from_bits(magnitude[i]), global_scale), 1 / 6.0f);
      if (magnitude[i] >= kInfinity) scale[i] = dev::float_from_bits(kNan);
    }
    Nvfp4Scales scales;
    scales.bits = dev::e4m3x2_from_floats(scale[0], scale[1]);
    dev::floats_from_e4m3x2(static_cast<uint16_t>(scales.bits), scale[0], scale[1]);
    // With a scale of 0 or NaN it does not matter what the numbers are: there is none that is not finite.
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) scales.inverse[i] = dev::mul(global_scale, dev::reciprocal(scale[i]));
    return scales;
  }
};

}  // namespace nccl_ep

// SPDX-License-Identifier: Apache-2.0
// From bf16 to E4M3 with a scale for each group of kScaleGroup elements: element = E4M3 number x scale.
//
// A group's scale is its largest magnitude / 448, so that E4M3 numbers reach as far as they can. Rounded scales are the
// next powers of two from there on. Magnitudes below 1e-4 count as that, so a group of zeros has a scale, too. In a group
// with an element that is not finite the scale is infinite and every product with it NaN.
//
// The error of an element x is at most |x| / 16, or scale / 1024 where that is more.
#pragma once

#include "device/numeric.hpp"
#include "shared/quantization.hpp"

namespace nccl_ep {

// The largest magnitude of `most` and a word of two bf16 elements. Magnitudes are the bits of floats, which are ordered
// as the numbers are; NaN is above infinity.
EP_DEVICE uint32_t max_magnitude(uint32_t most, uint32_t word) {
  const uint32_t high = word & 0x7fff0000, low = word << 16 & 0x7fff0000;
  const uint32_t of_word = high > low ? high : low;
  return most > of_word ? most : of_word;
}

// What a group's elements are multiplied by, there and back.
struct GroupScale {
  float scale, inverse;

  EP_DEVICE static GroupScale of(uint32_t magnitude, bool rounded) {
    constexpr float kLeastMagnitude = 1e-4f, kLargestE4m3 = 448;
    constexpr uint32_t kInfinity = 0x7f800000, kMantissa = 0x007fffff;
    const uint32_t least = dev::bits_from_float(kLeastMagnitude);
    if (magnitude < least) magnitude = least;
    if (magnitude > kInfinity) magnitude = kInfinity;
    float scale = dev::mul(dev::float_from_bits(magnitude), 1 / kLargestE4m3);
    if (rounded) scale = dev::float_from_bits((dev::bits_from_float(scale) + kMantissa) & ~kMantissa);
    return {scale, dev::reciprocal(scale)};
  }
};

// Twice two elements as a word of E4M3 numbers.
EP_DEVICE uint32_t quantize_floats(const float (&low)[2], const float (&high)[2], float inverse) {
  const uint32_t first = dev::e4m3x2_from_floats(dev::mul(low[0], inverse), dev::mul(low[1], inverse));
  const uint32_t second = dev::e4m3x2_from_floats(dev::mul(high[0], inverse), dev::mul(high[1], inverse));
  return first | second << 16;
}

// The same of two words of bf16 elements.
EP_DEVICE uint32_t quantize(uint32_t low, uint32_t high, float inverse) {
  using Bf16 = WordOf<DType::bf16>;
  float a[Bf16::kSize], b[Bf16::kSize];
  Bf16::unpack(low, a);
  Bf16::unpack(high, b);
  return quantize_floats(a, b, inverse);
}

// Two packs of them as a pack.
EP_DEVICE Pack quantize(const Pack& low, const Pack& high, float inverse) {
  return {{quantize(low.word[0], low.word[1], inverse), quantize(low.word[2], low.word[3], inverse),
           quantize(high.word[0], high.word[1], inverse), quantize(high.word[2], high.word[3], inverse)}};
}

}  // namespace nccl_ep

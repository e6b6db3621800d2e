// SPDX-License-Identifier: Apache-2.0
// The numbers of the device primitives on the simulator: the bits that a GPU computes, in portable C++. To be compiled
// with -ffp-contract=off.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep::dev {

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float add(float a, float b) { return a + b; }
inline float mul(float a, float b) { return a * b; }
inline float reciprocal(float value) { return 1 / value; }
inline float max_abs(float a, float b) {
  if (a != a || b != b) return a + b;
  const float x = __builtin_fabsf(a), y = __builtin_fabsf(b);
  return x > y ? x : y;
}

inline float float_from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

namespace detail {

constexpr uint16_t kNan16 = 0x7fff;  // what GPUs make of every NaN

// value / 2^shift to the nearest, ties to even; shift from 1 to 31.
inline uint32_t round_shift(uint32_t value, uint32_t shift) {
  const uint32_t half = 1u << (shift - 1);
  const uint32_t odd = (value >> shift) & 1;
  return (value + half - 1 + odd) >> shift;
}

}  // namespace detail

inline float float_from_bf16(uint16_t bits) { return float_from_bits(uint32_t{bits} << 16); }

inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = bits_from_float(value);
  if (value != value) return detail::kNan16;
  const uint32_t sign = bits >> 16 & 0x8000;
  return static_cast<uint16_t>(sign | detail::round_shift(bits & 0x7fffffff, 16));  // carries into infinity
}

inline float float_from_fp16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0x1f) return float_from_bits(mantissa != 0 ? 0x7fffffff : sign | 0x7f800000);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline uint16_t fp16_from_float(float value) {
  if (value != value) return detail::kNan16;
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  constexpr uint32_t kSmallestNormal = 113u << 23, kInfinity = 0x7c00;  // 2^-14
  if (magnitude >= kSmallestNormal) {
    const uint32_t rounded = detail::round_shift(magnitude - (112u << 23), 13);
    return static_cast<uint16_t>(sign | (rounded < kInfinity ? rounded : kInfinity));
  }
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return static_cast<uint16_t>(sign);  // below half of 2^-24, the smallest subnormal
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  return static_cast<uint16_t>(sign | detail::round_shift(mantissa, 126 - exponent));
}

namespace detail {

inline uint32_t e4m3_from_float(float value) {
  constexpr uint32_t kSmallestNormal = 121u << 23, kLargest = 0x7e, kNan = 0x7f;  // 2^-6, 448
  if (value != value) return kNan;
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude >= kSmallestNormal) {
    const uint32_t rounded = round_shift(magnitude - (120u << 23), 20);
    return sign | (rounded < kLargest ? rounded : kLargest);
  }
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 117) return sign;  // below half of 2^-9, the smallest subnormal
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  return sign | round_shift(mantissa, 141 - exponent);
}

inline float float_from_e4m3(uint32_t byte) {
  const uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7, sign = byte << 24 & 0x80000000;
  if ((byte & 0x7f) == 0x7f) return float_from_bits(0x7fffffff);
  if (exponent == 0) return float_from_bits(bits_from_float(static_cast<float>(mantissa) * 0x1p-9f) | sign);
  return float_from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
}

}  // namespace detail

inline void floats_from_e4m3x2(uint16_t bits, float& low, float& high) {
  low = detail::float_from_e4m3(bits);
  high = detail::float_from_e4m3(bits >> 8);
}
inline uint16_t e4m3x2_from_floats(float low, float high) {
  return static_cast<uint16_t>(detail::e4m3_from_float(low) | detail::e4m3_from_float(high) << 8);
}

namespace detail {

// How many numbers lie below, halves of the way to the next one included where that is the even one.
inline uint32_t e2m1_from_float(float value) {
  if (value != value) return 7;
  const float magnitude = value < 0 ? -value : value;
  const uint32_t number = (magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) + (magnitude >= 1.75f) +
                          (magnitude > 2.5f) + (magnitude >= 3.5f) + (magnitude > 5.0f);
  return (bits_from_float(value) >> 28 & 8) | number;
}

inline float float_from_e2m1(uint32_t number) {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float magnitude = kMagnitudes[number & 7];
  return (number & 8) != 0 ? -magnitude : magnitude;
}

}  // namespace detail

inline uint32_t e2m1x8_from_floats(const float (&value)[8]) {
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 8; ++i) bits |= detail::e2m1_from_float(value[i]) << 4 * i;
  return bits;
}
inline void floats_from_e2m1x8(uint32_t bits, float (&value)[8]) {
  for (uint32_t i = 0; i < 8; ++i) value[i] = detail::float_from_e2m1(bits >> 4 * i);
}

}  // namespace nccl_ep::dev

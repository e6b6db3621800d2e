// SPDX-License-Identifier: Apache-2.0
// Conversions and single IEEE operations, against references in integers and doubles.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

EP_DEVICE uint32_t grid_thread() { return dev::block_idx() * dev::num_threads() + dev::thread_idx(); }
EP_DEVICE uint32_t grid_threads() { return dev::num_blocks() * dev::num_threads(); }

EP_DEVICE bool is_nan(uint32_t float_bits) { return (float_bits & 0x7fffffffu) > 0x7f800000u; }
EP_DEVICE bool same_float(float a, float b) {
  const uint32_t x = dev::bits_from_float(a), y = dev::bits_from_float(b);
  return x == y || (is_nan(x) && is_nan(y));
}

// Floats worth converting: every exponent and sign, with random, tied, and nearly tied mantissas.
EP_DEVICE uint32_t interesting_float(uint32_t i) {
  const uint32_t sign_and_exponent = (i % 512) << 23;
  const uint32_t low = (i / 512) % 5, high = scramble(i) & 0x7fffffu;
  const uint32_t kinds[5] = {high, (high & ~0x1fffu) | 0x1000u, (high & ~0xffffu) | 0x8000u,
                             (high & ~0xffffu) | 0x8001u, (high & ~0x1fffu) | 0x0fffu};
  return sign_and_exponent | kinds[low];
}

// Rounds the magnitude `value`, a number of units 2^-shift, to the nearest integer, ties to even.
EP_DEVICE uint64_t round_shift(uint64_t value, uint32_t shift) {
  if (shift > 40) return 0;
  const uint64_t half = uint64_t{1} << (shift - 1), rest = value & ((uint64_t{1} << shift) - 1);
  const uint64_t whole = value >> shift;
  return whole + (rest > half || (rest == half && (whole & 1) != 0));
}

EP_DEVICE uint32_t reference_bf16(uint32_t bits) {
  const uint32_t sign = bits >> 16 & 0x8000u;
  return sign | static_cast<uint32_t>(round_shift(bits & 0x7fffffffu, 16));
}

EP_DEVICE uint32_t reference_fp16(uint32_t bits) {
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent > 15) return sign | 0x7c00u;
  if (exponent >= -14) {
    const uint64_t rounded = round_shift(magnitude - (uint32_t{127 - 15} << 23), 13);
    return sign | static_cast<uint32_t>(rounded < 0x7c00u ? rounded : 0x7c00u);
  }
  if (exponent < -25) return sign;
  const uint64_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  return sign | static_cast<uint32_t>(round_shift(mantissa, static_cast<uint32_t>(13 + (-14 - exponent))));
}

EP_DEVICE uint32_t reference_e4m3(uint32_t bits) {
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent > 8) return sign | 0x7eu;
  if (exponent >= -6) {
    const uint64_t rounded = round_shift(magnitude - (uint32_t{127 - 7} << 23), 20);
    return sign | static_cast<uint32_t>(rounded < 0x7eu ? rounded : 0x7eu);
  }
  if (exponent < -10) return sign;
  const uint64_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  return sign | static_cast<uint32_t>(round_shift(mantissa, static_cast<uint32_t>(20 + (-6 - exponent))));
}

LITMUS(bf16_from_all_floats_of_interest) {
  for (uint32_t i = grid_thread(); i < 65536; i += grid_threads()) {
    const uint32_t bits = interesting_float(i);
    const uint32_t got = dev::bf16_from_float(dev::float_from_bits(bits));
    EXPECT(is_nan(bits) ? is_nan(got << 16) : got == reference_bf16(bits));
  }
}

LITMUS(fp16_from_all_floats_of_interest) {
  for (uint32_t i = grid_thread(); i < 65536; i += grid_threads()) {
    const uint32_t bits = interesting_float(i);
    const uint32_t got = dev::fp16_from_float(dev::float_from_bits(bits));
    EXPECT(is_nan(bits) ? (got & 0x7fffu) > 0x7c00u : got == reference_fp16(bits));
  }
}

// Tied and nearly tied in the bits that E4M3 keeps.
EP_DEVICE uint32_t near_e4m3(uint32_t i) {
  const uint32_t kinds[4] = {0, 0x80000u, 0x7ffffu, 0x80001u};
  return (i % 512) << 23 | (i / 512 % 8) << 20 | kinds[i / 4096 % 4];
}

LITMUS(e4m3_from_all_floats_of_interest) {
  for (uint32_t i = grid_thread(); i < 65536; i += grid_threads()) {
    const uint32_t low = near_e4m3(i), high = interesting_float(i);
    const uint32_t got = dev::e4m3x2_from_floats(dev::float_from_bits(low), dev::float_from_bits(high));
    EXPECT((got & 0xffu) == (is_nan(low) ? 0x7fu : reference_e4m3(low)));
    EXPECT(got >> 8 == (is_nan(high) ? 0x7fu : reference_e4m3(high)));
    float back[2];
    dev::floats_from_e4m3x2(static_cast<uint16_t>(got), back[0], back[1]);
    EXPECT(dev::e4m3x2_from_floats(back[0], back[1]) == got);
    EXPECT((low & 0xfffffu) != 0 || is_nan(low) || got % 128 == 0x7eu || got % 128 <= 8 ||
           dev::bits_from_float(back[0]) == low);
  }
}

// The nearest of the numbers, of two at the same distance the even one.
EP_DEVICE uint32_t reference_e2m1(uint32_t bits) {
  const double numbers[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  if (is_nan(bits)) return 7;
  const uint32_t sign = bits >> 28 & 8u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return sign | 7u;
  const double value = dev::float_from_bits(magnitude);
  uint32_t nearest = 0;
  for (uint32_t number = 1; number < 8; ++number) {
    const double below = value - numbers[number - 1], above = numbers[number] - value;
    if (above < below || (above == below && number % 2 == 0)) nearest = number;
  }
  return sign | nearest;
}

// At, halfway between, and beside the numbers.
EP_DEVICE uint32_t near_e2m1(uint32_t i) {
  const uint32_t kinds[3] = {0, 1, 0xfffffu};
  return (i % 2) << 31 | (120 + i / 2 % 16) << 23 | (i / 32 % 8) << 20 | kinds[i / 256 % 3];
}

LITMUS(e2m1_from_all_floats_of_interest) {
  for (uint32_t i = grid_thread(); i < 65536; i += grid_threads()) {
    uint32_t bits[8];
    float value[8], back[8];
    for (uint32_t j = 0; j < 8; ++j) {
      bits[j] = (i / 8 + j) % 2 == 0 ? near_e2m1(i + j) : interesting_float(i + j);
      value[j] = dev::float_from_bits(bits[j]);
    }
    const uint32_t got = dev::e2m1x8_from_floats(value);
    for (uint32_t j = 0; j < 8; ++j) EXPECT((got >> 4 * j & 15u) == reference_e2m1(bits[j]));
    dev::floats_from_e2m1x8(got, back);
    EXPECT(dev::e2m1x8_from_floats(back) == got);
  }
}

// All words that have each number in each place.
LITMUS(floats_from_all_e2m1_numbers) {
  const double numbers[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (uint32_t i = grid_thread(); i < 4096; i += grid_threads()) {
    const uint32_t bits = i < 16 ? i * 0x11111111u : scramble(i);
    float value[8];
    dev::floats_from_e2m1x8(bits, value);
    for (uint32_t j = 0; j < 8; ++j) {
      const uint32_t number = bits >> 4 * j & 15u;
      const double magnitude = numbers[number & 7];
      EXPECT(static_cast<double>(value[j]) == (number >= 8 ? -magnitude : magnitude));
      EXPECT(dev::bits_from_float(value[j]) >> 31 == number >> 3);
    }
  }
}

LITMUS(bf16_and_fp16_to_float_and_back) {
  for (uint32_t bits = grid_thread(); bits < 65536; bits += grid_threads()) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float bf16 = dev::float_from_bf16(half), fp16 = dev::float_from_fp16(half);
    EXPECT(dev::bits_from_float(bf16) == bits << 16 || is_nan(bits << 16));
    EXPECT(is_nan(bits << 16) ? is_nan(dev::bits_from_float(bf16)) : dev::bf16_from_float(bf16) == half);
    EXPECT((bits & 0x7fffu) > 0x7c00u ? is_nan(dev::bits_from_float(fp16)) : dev::fp16_from_float(fp16) == half);
    if ((bits & 0x7c00u) != 0x7c00u) {  // a finite number: mantissa times a power of two
      const uint32_t exponent = bits >> 10 & 31u, mantissa = bits & 1023u;
      double value = exponent == 0 ? mantissa : mantissa + 1024;
      for (uint32_t e = exponent == 0 ? 1 : exponent; e < 25; ++e) value *= 0.5;
      for (uint32_t e = 25; e < exponent; ++e) value *= 2;
      EXPECT(static_cast<double>(fp16) == ((bits & 0x8000u) != 0 ? -value : value));
    }
  }
}

// a + b rounded to odd: rounding that to a float afterwards gives what one rounding would have given.
EP_DEVICE double add_to_odd(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  const double lost = (a - (sum - b_part)) + (b - b_part);
  union {
    double value;
    uint64_t bits;
  } u;
  u.value = sum;
  if (lost == 0 || (u.bits & 1) != 0) return sum;
  u.bits += (lost > 0) == (sum > 0) ? 1 : -1;
  return u.value;
}

LITMUS(the_larger_magnitude) {
  const uint32_t infinity = 0x7f800000u;
  for (uint32_t i = grid_thread(); i < 65536; i += grid_threads()) {
    const uint32_t a = interesting_float(i), b = interesting_float(scramble(i) % 65536);
    const uint32_t most = (a & 0x7fffffffu) > (b & 0x7fffffffu) ? a & 0x7fffffffu : b & 0x7fffffffu;
    const uint32_t got = dev::bits_from_float(dev::max_abs(dev::float_from_bits(a), dev::float_from_bits(b)));
    EXPECT(most > infinity ? is_nan(got) : got == most);
  }
}

LITMUS(single_operations) {
  for (uint32_t i = grid_thread(); i < 32768; i += grid_threads()) {
    // Exponents near each other, so that the terms of a sum meet.
    const auto number = [&](uint32_t salt, uint32_t spread) {
      const uint32_t bits = scramble(4 * i + salt);
      const uint32_t exponent = 127 - spread / 2 + (bits >> 8) % spread;
      return dev::float_from_bits((bits & 0x807fffffu) | exponent << 23);
    };
    const float a = number(0, 6), b = number(1, 6), c = number(2, 40);
    const double product = static_cast<double>(a) * b;
    EXPECT(same_float(dev::mul(a, b), static_cast<float>(product)));
    EXPECT(same_float(dev::add(a, c), static_cast<float>(static_cast<double>(a) + c)));
    EXPECT(same_float(dev::fma(a, b, c), static_cast<float>(add_to_odd(product, c))));
    EXPECT(same_float(dev::reciprocal(c), static_cast<float>(1.0 / c)));
    // Never contracted, even where a compiler would like to.
    const float rounded = static_cast<float>(product);
    EXPECT(same_float(dev::add(dev::mul(a, b), c), static_cast<float>(static_cast<double>(rounded) + c)));
  }
}

}  // namespace nccl_ep::litmus

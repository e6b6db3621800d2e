// SPDX-License-Identifier: Apache-2.0
// E4M3 as the simulator rounds it, against the numbers of the format themselves; quantizing, against its stated error.
#include "device/sim_numbers.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/quantize.cuh"

using namespace nccl_ep;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What a byte of E4M3 means: four bits of exponent, biased by 7, three of mantissa, no infinity.
double value_of_e4m3(uint32_t byte) {
  const int exponent = static_cast<int>(byte >> 3 & 15), mantissa = static_cast<int>(byte & 7);
  if (exponent == 15 && mantissa == 7) return kNan;
  const double value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return byte & 0x80 ? -value : value;
}

uint32_t e4m3(float value) {
  const uint32_t both = dev::e4m3x2_from_floats(value, -value);
  CHECK((value != value || (both ^ (both >> 8)) == (0x80u | (both >> 8) << 8)));
  return both & 0xff;
}

}  // namespace

TEST_CASE("sim_numbers: floats at, beside and halfway between E4M3 numbers") {
  for (uint32_t byte = 0; byte < 0x7e; ++byte) {
    const double low = value_of_e4m3(byte), high = value_of_e4m3(byte + 1);
    const float half = static_cast<float>((low + high) / 2);
    REQUIRE(half == (low + high) / 2);
    CAPTURE(byte);
    CHECK(e4m3(static_cast<float>(low)) == byte);
    CHECK(e4m3(std::nextafter(static_cast<float>(low), kInfinity)) == byte);
    CHECK(e4m3(std::nextafter(half, 0.0f)) == byte);
    CHECK(e4m3(half) == byte + byte % 2);  // the even one
    CHECK(e4m3(std::nextafter(half, kInfinity)) == byte + 1);
    CHECK(e4m3(std::nextafter(static_cast<float>(high), 0.0f)) == byte + 1);
  }
}

TEST_CASE("sim_numbers: what E4M3 does not reach") {
  for (const float large : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, kInfinity}) {
    CAPTURE(large);
    CHECK(e4m3(large) == 0x7e);
    CHECK(e4m3(-large) == 0xfe);
  }
  for (const float small : {0.0f, 1e-40f, 1e-30f, std::ldexp(1.0f, -10)}) {
    CAPTURE(small);
    CHECK(e4m3(small) == 0);
    CHECK(e4m3(-small) == 0x80);
  }
  CHECK(dev::e4m3x2_from_floats(kNan, -kNan) == 0x7f7f);
}

TEST_CASE("sim_numbers: the order of two E4M3 numbers") { CHECK(dev::e4m3x2_from_floats(1.0f, 2.0f) == 0x4038); }

TEST_CASE("sim_numbers: floats from E4M3 numbers") {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    float low, high;
    dev::floats_from_e4m3x2(static_cast<uint16_t>(byte | (byte ^ 0x80) << 8), low, high);
    CAPTURE(byte);
    if ((byte & 0x7f) == 0x7f) {
      CHECK((low != low && high != high));
    } else {
      CHECK(low == value_of_e4m3(byte));
      CHECK(high == -low);
      CHECK(std::signbit(low) == (byte >= 0x80));
    }
  }
}

TEST_CASE("sim_numbers: scales") {
  const auto scale_of = [](float magnitude, bool rounded) {
    return GroupScale::of(dev::bits_from_float(magnitude), rounded);
  };
  for (const float magnitude : {1e-4f, 0.3f, 1.0f, 447.9f, 448.0f, 448.1f, 1e20f, 3.38e38f}) {
    CAPTURE(magnitude);
    const GroupScale exact = scale_of(magnitude, false), rounded = scale_of(magnitude, true);
    CHECK(exact.scale == doctest::Approx(magnitude / 448.0).epsilon(1e-6));
    CHECK(exact.inverse == 1 / exact.scale);
    CHECK(rounded.inverse == 1 / rounded.scale);
    int exponent = 0;
    CHECK(std::frexp(rounded.scale, &exponent) == 0.5f);
    CHECK(rounded.scale >= exact.scale);
    CHECK(rounded.scale < 2 * exact.scale);
  }
  CHECK(scale_of(448, false).scale == 1);
  CHECK(scale_of(448, true).scale == 1);
  for (const float none : {0.0f, 1e-30f}) CHECK(scale_of(none, false).scale == scale_of(1e-4f, false).scale);
  for (const float no_number : {kInfinity, kNan}) {
    for (const bool rounded : {false, true}) {
      CHECK(scale_of(no_number, rounded).scale == kInfinity);
      CHECK(scale_of(no_number, rounded).inverse == 0);
    }
  }
}

TEST_CASE("sim_numbers: the error of quantized elements") {
  std::mt19937 random(8151);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 2000; ++i) {
    const bool rounded = i % 2;
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 40) - 20);
    uint32_t word[2], most = 0;
    for (uint32_t& pair : word) {
      pair = dev::bf16_from_float(size * normal(random)) | uint32_t{dev::bf16_from_float(normal(random))} << 16;
      most = max_magnitude(most, pair);
    }
    const GroupScale group = GroupScale::of(most, rounded);
    const uint32_t bytes = quantize(word[0], word[1], group.inverse);
    double largest = 0;
    for (uint32_t element = 0; element < 4; ++element) {
      const double x = dev::float_from_bf16(static_cast<uint16_t>(word[element / 2] >> 16 * (element % 2)));
      const double found = value_of_e4m3(bytes >> 8 * element & 0xff) * group.scale;
      CHECK(std::abs(found - x) <= std::max(std::abs(x) / 16, group.scale / 1024.0) * (1 + 1e-6));
      largest = std::max(largest, std::abs(x));
    }
    CHECK(dev::float_from_bits(most) == largest);
  }
}

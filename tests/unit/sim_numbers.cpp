// SPDX-License-Identifier: Apache-2.0
// E4M3 and E2M1 as the simulator rounds them, against the numbers of the formats themselves; quantizing, against its stated
// error.
#include "device/sim_numbers.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/nvfp4.cuh"
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

constexpr float kE2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

uint32_t e2m1(float value) {
  const uint32_t all = dev::e2m1x8_from_floats({value, -value, value, -value, value, -value, value, -value});
  CHECK(all == (all & 0xff) * 0x01010101u);
  CHECK((value != value || (all >> 4 & 15) == ((all & 15) ^ 8)));
  return all & 15;
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

TEST_CASE("sim_numbers: floats at, beside and halfway between E2M1 numbers") {
  for (uint32_t number = 0; number < 7; ++number) {
    const float low = kE2m1[number], high = kE2m1[number + 1], half = (low + high) / 2;
    CAPTURE(number);
    CHECK(e2m1(low) == number);
    CHECK(e2m1(std::nextafter(low, kInfinity)) == number);
    CHECK(e2m1(std::nextafter(half, 0.0f)) == number);
    CHECK(e2m1(half) == number + number % 2);  // the even one
    CHECK(e2m1(std::nextafter(half, kInfinity)) == number + 1);
    CHECK(e2m1(std::nextafter(high, 0.0f)) == number + 1);
  }
  for (const float large : {6.0f, 7.0f, 1e30f, kInfinity}) CHECK(e2m1(large) == 7);
  CHECK(dev::e2m1x8_from_floats({kNan, -kNan, 0, 0, 0, 0, 0, 0}) == 0x77);
}

TEST_CASE("sim_numbers: the order of eight E2M1 numbers, there and back") {
  CHECK(dev::e2m1x8_from_floats({0, 0.5f, 1, 1.5f, 2, 3, 4, 6}) == 0x76543210);
  float value[8];
  dev::floats_from_e2m1x8(0x7654ba98, value);
  for (uint32_t i = 0; i < 8; ++i) {
    CAPTURE(i);
    CHECK(value[i] == (i < 4 ? -kE2m1[i] : kE2m1[i]));
    CHECK(std::signbit(value[i]) == (i < 4));
  }
}

TEST_CASE("sim_numbers: global scales") {
  CHECK(inverse_of_global_scale(4) == 0.25f);
  CHECK(inverse_of_global_scale(0) == 0);
  CHECK(inverse_of_global_scale(kInfinity) == 0);
  CHECK(std::isnan(inverse_of_global_scale(kNan)));
  for (const float inverse : {0.0f, 1e-38f, 1e-36f}) CHECK(GlobalScale::of_inverse(inverse).inverse == 1e-35f);
  CHECK(GlobalScale::of_inverse(0.25f).scale == 4);
  CHECK(GlobalScale::of_inverse(1e35f).scale == doctest::Approx(1e-35f));
  CHECK(std::isnan(GlobalScale::of_inverse(kNan).scale));
}

TEST_CASE("sim_numbers: the error of elements in NVFP4") {
  std::mt19937 random(8152);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 4000; ++i) {
    // A row's largest magnitude, and one group of it that is smaller.
    const double most = std::ldexp(1.0 + random() % 1000 / 1000.0, static_cast<int>(random() % 60) - 30);
    float element[16];
    uint32_t magnitude[2] = {0, 0};
    const double size = std::ldexp(most, -static_cast<int>(random() % 24));
    for (float& x : element) {
      x = static_cast<float>(std::clamp(size / 3 * normal(random), -most, most));
      magnitude[0] = std::max(magnitude[0], dev::bits_from_float(x) & 0x7fffffff);
    }
    const float given = static_cast<float>(2688 / most);
    const GlobalScale global = GlobalScale::of_inverse(inverse_of_global_scale(given));
    const Nvfp4Scales scales = Nvfp4Scales::of(magnitude, global.scale);
    CHECK(scales.bits < 0x100);
    const double scale = value_of_e4m3(scales.bits & 0xff) * global.inverse,
                 largest = dev::float_from_bits(magnitude[0]);
    for (const float x : element) {
      const float number = dev::mul(x, scales.inverse[0]);
      const double found = (std::signbit(number) ? -1 : 1) * kE2m1[e2m1(number) & 7] * scale;
      const double allowed = std::max({std::abs(x) / 5.0, largest / 22, 2688 / given / 450'000.0});
      CAPTURE(most);
      CAPTURE(x);
      CHECK(std::abs(found - x) <= allowed * (1 + 1e-6));
    }
  }
}

TEST_CASE("sim_numbers: groups with an element that is not finite have no scale") {
  for (const float no_number : {kInfinity, kNan}) {
    const uint32_t magnitude[2] = {dev::bits_from_float(no_number) & 0x7fffffff, dev::bits_from_float(1)};
    CHECK(Nvfp4Scales::of(magnitude, 6).bits == 0x387f);
  }
}

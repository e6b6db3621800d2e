// SPDX-License-Identifier: Apache-2.0
// The random numbers of the simulator: small, fast, and the same everywhere for the same seed.
#pragma once

#include <cstdint>

namespace nccl_ep::sim {

// Sebastiano Vigna's SplitMix64 generator.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // A number from 0 to bound - 1.
  uint64_t below(uint64_t bound) { return static_cast<uint64_t>(static_cast<unsigned __int128>(next()) * bound >> 64); }
  bool one_in(uint64_t n) { return below(n) == 0; }
  // Another stream of numbers, for a part of the simulator of its own.
  Random fork() { return Random(next()); }

 private:
  uint64_t state_;
};

}  // namespace nccl_ep::sim

// SPDX-License-Identifier: Apache-2.0
// Faults that a real network has and copies inside a host have not: transfers that are late and overtake one another,
// as far as NCCL's guarantees allow. Asked for by environment variables, so that any program can be run with them.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>
#include <string>

namespace nccl_ep::loopback {

struct FaultOptions {
  uint64_t delay_us = 0;  // a transfer starts up to this much after it was asked for
  bool reorder = false;   // transfers of a context to a peer start in any order
  uint64_t seed = 1;

  // NCCL_EP_LOOPBACK_DELAY_US, NCCL_EP_LOOPBACK_REORDER, NCCL_EP_LOOPBACK_SEED. Throws Error(ncclInvalidArgument).
  static FaultOptions from_environment();
  std::string describe() const;
};

class Faults {
 public:
  // `stream` makes ranks and connections of one seed draw different numbers.
  Faults(const FaultOptions& options, uint64_t stream);

  bool reorder() const { return options_.reorder; }
  std::chrono::microseconds draw_delay();
  // Whether a transfer that could start lets others go first.
  bool draw_yield() { return options_.reorder && random_() % 2 == 0; }
  // One of `count`: always `otherwise`, unless transfers are reordered.
  size_t draw_choice(size_t count, size_t otherwise) { return options_.reorder ? random_() % count : otherwise; }

 private:
  FaultOptions options_;
  std::mt19937_64 random_;
};

}  // namespace nccl_ep::loopback

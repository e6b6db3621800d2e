// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/faults.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {
namespace {

uint64_t number(const char* name, const char* text, uint64_t otherwise, uint64_t most) {
  if (text == nullptr || *text == '\0') return otherwise;
  uint64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [parsed, error] = std::from_chars(text, end, value);
  if (error != std::errc() || parsed != end || value > most) {
    throw Error(ncclInvalidArgument,
                std::string(name) + " is '" + text + "', expected a number from 0 to " + std::to_string(most));
  }
  return value;
}

}  // namespace

FaultOptions FaultOptions::from_environment() {
  constexpr uint64_t kMostDelay = 10'000'000;
  FaultOptions options;
  options.delay_us = number("NCCL_EP_LOOPBACK_DELAY_US", std::getenv("NCCL_EP_LOOPBACK_DELAY_US"), 0, kMostDelay);
  options.reorder = number("NCCL_EP_LOOPBACK_REORDER", std::getenv("NCCL_EP_LOOPBACK_REORDER"), 0, 1) == 1;
  options.seed = number("NCCL_EP_LOOPBACK_SEED", std::getenv("NCCL_EP_LOOPBACK_SEED"), 1, UINT64_MAX);
  return options;
}

std::string FaultOptions::describe() const {
  if (delay_us == 0 && !reorder) return "no faults";
  return "transfers are delayed by up to " + std::to_string(delay_us) + " us" + (reorder ? " and reordered" : "") +
         ", seed " + std::to_string(seed);
}

Faults::Faults(const FaultOptions& options, uint64_t stream) : options_(options) {
  std::seed_seq seeds{options.seed, options.seed >> 32, stream, stream >> 32};
  random_.seed(seeds);
}

std::chrono::microseconds Faults::draw_delay() {
  if (options_.delay_us == 0) return {};
  return std::chrono::microseconds(random_() % (options_.delay_us + 1));
}

}  // namespace nccl_ep::loopback

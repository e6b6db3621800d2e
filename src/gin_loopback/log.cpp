// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/log.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>

namespace nccl_ep::loopback {
namespace {

std::atomic<Logger> process_logger{nullptr};

void log(LogLevel level, const std::string& text) noexcept {
  if (const Logger logger = process_logger) {
    logger(level, kLogInit | kLogNet, "gin_loopback", 0, "nccl_ep loopback: %s", text.c_str());
  }
}

}  // namespace

void fail_with_errno(const std::string& what) {
  const int error = errno;
  throw Error(ncclSystemError, what + ": " + std::strerror(error));
}

void set_logger(Logger logger) noexcept { process_logger = logger; }
void warn(const std::string& text) noexcept { log(LogLevel::kWarn, text); }
void info(const std::string& text) noexcept { log(LogLevel::kInfo, text); }

}  // namespace nccl_ep::loopback

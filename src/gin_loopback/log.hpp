// SPDX-License-Identifier: Apache-2.0
// How a failure travels inside the plugin, and how it reaches the user: a line of NCCL's log.
#pragma once

#include <stdexcept>
#include <string>

#include "gin_loopback/nccl_plugin.hpp"

namespace nccl_ep::loopback {

class Error : public std::runtime_error {
 public:
  Error(ncclResult_t code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ncclResult_t code() const { return code_; }

 private:
  ncclResult_t code_;
};

// Throws Error(ncclSystemError): `what` was tried, errno says why it failed.
[[noreturn]] void fail_with_errno(const std::string& what);

// NCCL has one logger for a process, and hands it over with every communicator.
void set_logger(Logger logger) noexcept;
void warn(const std::string& text) noexcept;
void info(const std::string& text) noexcept;

}  // namespace nccl_ep::loopback

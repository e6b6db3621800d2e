// SPDX-License-Identifier: Apache-2.0
// How a failure, which travels as Error, reaches the user: a line of NCCL's log.
#pragma once

#include <string>

#include "gin_loopback/nccl_plugin.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::loopback {

// Throws Error(ncclSystemError): `what` was tried, errno says why it failed.
[[noreturn]] void fail_with_errno(const std::string& what);

// NCCL has one logger for a process, and hands it over with every communicator.
void set_logger(Logger logger) noexcept;
void warn(const std::string& text) noexcept;
void info(const std::string& text) noexcept;

}  // namespace nccl_ep::loopback

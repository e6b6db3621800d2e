// SPDX-License-Identifier: Apache-2.0
// How a failure travels inside the library, where src/api turns it into a result code and a stored message, and inside
// NCCL's plugin.
#pragma once

#include <stdexcept>
#include <string>

#include "runtime/nccl_types.hpp"

namespace nccl_ep {

class Error : public std::runtime_error {
 public:
  Error(ncclResult_t code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ncclResult_t code() const { return code_; }

 private:
  ncclResult_t code_;
};

// What a caller gave in `field` cannot be used.
[[noreturn]] inline void refuse(ncclResult_t code, const char* field, const std::string& problem) {
  throw Error(code, std::string(field) + ": " + problem);
}

}  // namespace nccl_ep
